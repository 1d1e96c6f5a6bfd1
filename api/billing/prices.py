"""Price versions: immutable, each in force from a moment until a later version for the same words replaces it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.tables import PriceVersion
from api.clock import utc_now
from api.pipeline import Pipeline, pipelined
from scheduler.gpu_model import matches, words

MAX_VERSIONS = 10_000
"""How many versions a look-up reads at most, the latest first."""
_VERSIONS = text(
    "select id, gpu_model, currency, price_micro_per_gpu_hour, effective_from from price_versions"
    " order by effective_from desc, id desc limit :most"
)


@dataclass(frozen=True, slots=True)
class Price:
    """A version as it was read."""

    id: int
    gpu_model: str
    currency: str
    price_micro_per_gpu_hour: int
    effective_from: datetime


@dataclass(frozen=True, slots=True)
class PriceList:
    """The versions in force at a moment, with what was looked up in them. `next_change`: when a later one begins."""

    versions: Sequence[Price]
    next_change: datetime | None = None
    _found: dict[tuple[str, str | None], Price | None] = field(default_factory=dict)

    def price_of(self, gpu_model: str, currency: str | None = None) -> Price | None:
        """What a device of this model costs, in that currency or any.

        Among the versions whose words the model has, the ones with most words win; of those the latest effective. None
        if the model has no price.
        """
        key = gpu_model, currency
        if key not in self._found:
            fitting = [price for price in self.versions if currency in (None, price.currency)]
            fitting = [price for price in fitting if matches(price.gpu_model, gpu_model)]
            self._found[key] = max(fitting, key=_precedence, default=None)
        return self._found[key]

    def by_model(self, gpu_models: Sequence[str], currency: str) -> Mapping[str, int]:
        """Micro-units per GPU hour of those models that have a price in the currency."""
        found = ((model, self.price_of(model, currency)) for model in gpu_models)
        return {model: price.price_micro_per_gpu_hour for model, price in found if price is not None}


def load_prices(session: Session, *, at: datetime) -> PriceList:
    """The latest MAX_VERSIONS that were in force at a moment, and when the next one comes."""
    with pipelined(session) as pipeline:
        return ask_prices(pipeline, at=at)()


def ask_prices(pipeline: Pipeline, *, at: datetime) -> Callable[[], PriceList]:
    """The same, told later."""
    rows = pipeline.ask(_VERSIONS, {"most": MAX_VERSIONS})

    def told() -> PriceList:
        every = [Price(*row) for row in rows.all()]
        coming = [price.effective_from for price in every if price.effective_from > at]
        return PriceList([price for price in every if price.effective_from <= at], min(coming, default=None))

    return told


def price_for(session: Session, gpu_model: str, *, at: datetime, currency: str | None = None) -> Price | None:
    """What a device of this model costs at a moment; None if it has no price (in that currency)."""
    return load_prices(session, at=at).price_of(gpu_model, currency)


def create_price(
    session: Session,
    *,
    gpu_model: str,
    price_micro_per_gpu_hour: int,
    currency: str = "USD",
    effective_from: datetime | None = None,
) -> PriceVersion:
    """Add a version, in force from now unless told otherwise. What was placed before keeps the version it has."""
    price = PriceVersion(
        gpu_model=gpu_model,
        price_micro_per_gpu_hour=price_micro_per_gpu_hour,
        currency=currency,
        effective_from=effective_from or utc_now(),
    )
    session.add(price)
    session.flush()
    return price


def _precedence(price: Price) -> tuple[int, datetime, int]:
    return len(words(price.gpu_model)), price.effective_from, price.id
