"""Price versions: immutable, each in force from a moment until a later version for the same words replaces it."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.billing.tables import PriceVersion
from api.clock import utc_now
from scheduler.gpu_model import matches, words

MAX_VERSIONS = 10_000
"""How many versions a look-up reads at most, the latest first."""


def price_for(session: Session, gpu_model: str, *, at: datetime, currency: str | None = None) -> PriceVersion | None:
    """What a device of this model costs at a moment.

    Among the versions whose words the model has, the ones with most words win; of those the latest effective. None if
    the model has no price (in that currency).
    """
    query = select(PriceVersion).where(PriceVersion.effective_from <= at)
    if currency is not None:
        query = query.where(PriceVersion.currency == currency)
    query = query.order_by(PriceVersion.effective_from.desc(), PriceVersion.id.desc()).limit(MAX_VERSIONS)
    fitting = [price for price in session.scalars(query) if matches(price.gpu_model, gpu_model)]
    return max(fitting, key=lambda price: (len(words(price.gpu_model)), price.effective_from, price.id), default=None)


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
