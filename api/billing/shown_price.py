"""The price of now, for queries of allocations that show it."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, SQLColumnExpression, and_, case, cast, func, select
from sqlalchemy.orm import InstrumentedAttribute

from api.allocations.tables import Allocation
from api.billing.tables import Hold, HoldPrice


def is_current_hold() -> ColumnElement[bool]:
    """For a join: `Hold` is that of what `Allocation` has or had; one that waits has none, whatever it had before."""
    return and_(
        Hold.allocation_id == Allocation.id, Hold.generation == Allocation.generation, Allocation.host_id.is_not(None)
    )


def price_columns() -> tuple[ColumnElement[Any], ...]:
    """`price_micro_per_gpu_hour`, `price_terms`, and `price_kept_until`: of what has ended, as they were at its end.

    A hold knows its next price a little before that begins.
    """
    price = _shown(Hold.price_micro_per_gpu_hour, HoldPrice.price_micro_per_gpu_hour)
    until_ms = _shown(Hold.price_until_ms, HoldPrice.until_ms)
    return (
        price.label("price_micro_per_gpu_hour"),
        _shown(Hold.terms, HoldPrice.terms).label("price_terms"),
        func.to_timestamp(until_ms / 1000.0).label("price_kept_until"),
    )


def shown_version() -> tuple[ColumnElement[Any] | InstrumentedAttribute[Any], ...]:
    """What changes whenever those columns do."""
    return Hold.price_from_ms, Hold.price_until_ms, Hold.price_from_ms <= _moment_ms()


def _shown(present: SQLColumnExpression[Any], earlier: SQLColumnExpression[Any]) -> ColumnElement[Any]:
    at_the_time = (
        select(earlier)
        .where(HoldPrice.allocation_id == Hold.allocation_id, HoldPrice.generation == Hold.generation)
        .where(HoldPrice.from_ms <= _moment_ms(), HoldPrice.until_ms > _moment_ms())
        .scalar_subquery()
    )
    return case((Hold.price_from_ms <= _moment_ms(), present), else_=at_the_time)


def _moment_ms() -> ColumnElement[int]:
    now_ms = cast(func.extract("epoch", func.now()) * 1000, BigInteger)
    return func.least(now_ms, Hold.billable_until_ms)
