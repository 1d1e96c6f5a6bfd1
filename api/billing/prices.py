"""Price versions: immutable, each in force from a moment until a later version of the same reach replaces it.

A version is of the list, of one customer, or of one of a customer's capacity groups. The narrower reach wins, whatever
the model's words; then the version with more words; then the later one.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.tables import PriceVersion
from api.clock import utc_now
from api.pipeline import Pipeline, pipelined
from scheduler.gpu_model import matches, words
from scheduler.prices import PriceTerms, Rates

# Of versions of the same reach and model, the last one replaces the others.
_IN_FORCE = text(
    "select distinct on (customer_id, capacity_group, currency, unit, gpu_model)"
    " id, gpu_model, currency, price_micro, effective_from, customer_id, capacity_group,"
    " preemptible_discount_permille, reserved_discount_permille, kept_for_s from price_versions"
    " where unit = 'gpu_hour' and effective_from <= :at"
    " order by customer_id, capacity_group, currency, unit, gpu_model, effective_from desc, id desc"
)
_NEXT = text(
    "select min(effective_from) as begins from price_versions where unit = 'gpu_hour' and effective_from > :at"
)


class PriceUnit(StrEnum):
    """What a price is of."""

    GPU_HOUR = "gpu_hour"
    CPU_CORE_HOUR = "cpu_core_hour"
    MEMORY_GIB_HOUR = "memory_gib_hour"
    VOLUME_GIB_MONTH = "volume_gib_month"
    EGRESS_GIB = "egress_gib"


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose price is looked for."""

    customer_id: int
    currency: str
    capacity_group: str | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """What a request pays: a version on the request's terms, in micro-units after the discount."""

    price_version_id: int
    currency: str
    terms: PriceTerms
    price_micro_per_gpu_hour: int
    kept_for_s: int | None = None  # from the beginning; None: to the end of what runs


@dataclass(frozen=True, slots=True)
class Price:
    """A version as it was read, of GPU hours."""

    id: int
    gpu_model: str
    currency: str
    price_micro: int
    effective_from: datetime
    customer_id: int | None = None
    capacity_group: str | None = None
    preemptible_discount_permille: int = 0
    reserved_discount_permille: int = 0
    kept_for_s: int | None = None

    @property
    def rates(self) -> Rates:
        return Rates.of(
            self.price_micro,
            preemptible_permille=self.preemptible_discount_permille,
            reserved_permille=self.reserved_discount_permille,
        )

    def quote(self, *, preemptible: bool, reserved: bool) -> Quote:
        rates = self.rates
        terms = rates.best(preemptible=preemptible, reserved=reserved)
        return Quote(self.id, self.currency, terms, rates.at(terms), self.kept_for_s)

    def is_for(self, payer: Payer) -> bool:
        return (
            self.currency == payer.currency
            and self.customer_id in (None, payer.customer_id)
            and self.capacity_group in (None, payer.capacity_group)
        )


@dataclass(slots=True)
class PriceList:
    """The versions in force at a moment, with what was looked up in them. `next_change`: when a later one begins."""

    versions: Sequence[Price]
    next_change: datetime | None = None
    _own: dict[int, list[Price]] = field(init=False)  # by customer
    _listed: list[Price] = field(init=False)
    _found: dict[tuple[str, str], Price | None] = field(default_factory=dict)  # of the list, by model and currency

    def __post_init__(self) -> None:
        own: defaultdict[int, list[Price]] = defaultdict(list)
        for price in self.versions:
            if price.customer_id is not None:
                own[price.customer_id].append(price)
        self._own = dict(own)
        self._listed = [price for price in self.versions if price.customer_id is None]

    def price_of(self, gpu_model: str, payer: Payer) -> Price | None:
        """What a device of this model costs them; None if it has no price for them."""
        own = [price for price in self._own.get(payer.customer_id, ()) if price.is_for(payer)]
        return _latest(own, gpu_model) or self._of_list(gpu_model, payer.currency)

    def is_priced(self, gpu_model: str) -> bool:
        """Whether a device of this model has a price, for anybody."""
        return any(matches(price.gpu_model, gpu_model) for price in self.versions)

    def is_special(self, customer_id: int) -> bool:
        """Whether the customer, or one of its capacity groups, has prices of its own."""
        return customer_id in self._own

    def groups_of(self, customer_id: int) -> set[str]:
        """Its capacity groups with prices of their own."""
        own = self._own.get(customer_id, ())
        return {price.capacity_group for price in own if price.capacity_group is not None}

    def rates(self, gpu_models: Sequence[str], payer: Payer) -> Mapping[str, Rates]:
        """Of those models that have a price for them."""
        found = ((model, self.price_of(model, payer)) for model in gpu_models)
        return {model: price.rates for model, price in found if price is not None}

    def is_free(self, gpu_models: Sequence[str], currency: str) -> bool:
        """Whether the list asks nothing for any of the models."""
        found = (self._of_list(model, currency) for model in gpu_models)
        return not any(price.price_micro for price in found if price is not None)

    def _of_list(self, gpu_model: str, currency: str) -> Price | None:
        key = gpu_model, currency
        if key not in self._found:
            fitting = [price for price in self._listed if price.currency == currency]
            self._found[key] = _latest(fitting, gpu_model)
        return self._found[key]


def load_prices(session: Session, *, at: datetime) -> PriceList:
    """The versions that are in force at a moment, and when the next one comes."""
    with pipelined(session) as pipeline:
        return ask_prices(pipeline, at=at)()


def ask_prices(pipeline: Pipeline, *, at: datetime) -> Callable[[], PriceList]:
    """The same, told later."""
    rows, coming = pipeline.ask(_IN_FORCE, {"at": at}), pipeline.ask(_NEXT, {"at": at})

    def told() -> PriceList:
        prices, [following] = [Price(*row) for row in rows.all()], coming.all()
        return PriceList(prices, following.begins)

    return told


def create_price(
    session: Session,
    *,
    gpu_model: str | None,
    price_micro: int,
    unit: PriceUnit = PriceUnit.GPU_HOUR,
    currency: str = "USD",
    effective_from: datetime | None = None,
    customer_id: int | None = None,
    capacity_group: str | None = None,
    preemptible_discount_permille: int = 0,
    reserved_discount_permille: int = 0,
    kept_for_s: int | None = None,
) -> PriceVersion:
    """Add a version, in force from now unless told otherwise. What was placed before keeps the price that it has,
    for as long as that one's version says.

    `customer_id` is that of the capacity group, where one is named.
    """
    price = PriceVersion(
        unit=unit,
        gpu_model=gpu_model,
        price_micro=price_micro,
        currency=currency,
        effective_from=effective_from or utc_now(),
        customer_id=customer_id,
        capacity_group=capacity_group,
        preemptible_discount_permille=preemptible_discount_permille,
        reserved_discount_permille=reserved_discount_permille,
        kept_for_s=kept_for_s,
    )
    session.add(price)
    session.flush()
    return price


def _latest(prices: Sequence[Price], gpu_model: str) -> Price | None:
    fitting = [price for price in prices if matches(price.gpu_model, gpu_model)]
    return max(fitting, key=_precedence, default=None)


def _precedence(price: Price) -> tuple[bool, bool, int, datetime, int]:
    group, customer = price.capacity_group is not None, price.customer_id is not None
    return group, customer, len(words(price.gpu_model)), price.effective_from, price.id
