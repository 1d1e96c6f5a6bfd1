"""A customer's statement: sums of the journal's postings in a period, and the intervals and entries behind them.

A period is `from <= at < to` by the moment of posting. Late proof appears in the period in which it arrived, so that a
closed period never changes. The sums of whole hours are kept (`usage_sums`), so that only the two ends of a period are
read posting by posting.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, aliased

from api.allocations.tables import Allocation
from api.billing.journal import JournalKind, balance
from api.billing.tables import Account, Hold, JournalTransaction, Posting, PriceVersion
from api.environments.tables import Environment
from api.machines.tables import Gpu
from api.metering.tables import UsageInterval, UsageMeter, UsageSum
from api.pagination import page_rows
from api.tasks.tables import Task

LAST = datetime(9999, 12, 31, tzinfo=UTC)
"""Later than any posting."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Period:
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Totals:
    """`opening + top_ups + refunds + transfers + adjustments + promotions - usage = closing`, each in micro-units.

    Refunds are negative, the three after them what came less what went; `duration_ms` is device time.
    """

    currency: str
    opening_micro: int
    top_ups_micro: int
    refunds_micro: int
    transfers_micro: int
    adjustments_micro: int
    promotions_micro: int
    usage_micro: int
    closing_micro: int
    duration_ms: int


def read_snapshot(session: Session) -> None:
    """Make everything that this transaction reads one moment's state. Call it before anything else."""
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


def totals(session: Session, customer_id: int, period: Period) -> Totals:
    """What the journal says about a period, in the customer's currency."""
    now = balance(session, customer_id)
    others = (
        select(JournalTransaction.kind, func.sum(Posting.amount_micro))
        .join(Posting, Posting.transaction_id == JournalTransaction.id)
        .join(Account, Account.id == Posting.account_id)
        .where(JournalTransaction.customer_id == customer_id, JournalTransaction.at >= period.start)
        .where(JournalTransaction.kind != JournalKind.USAGE)
        .where(Account.kind.in_(("wallet", "holds")), Account.currency == now.currency)
        .group_by(JournalTransaction.kind)
    )
    since = sum(int(amount) for _, amount in session.execute(others))
    inside = {kind: int(amount) for kind, amount in session.execute(others.where(JournalTransaction.at < period.end))}
    spent, _ = _usage_totals(session, customer_id, Period(period.start, LAST), now.currency)
    usage, duration_ms = _usage_totals(session, customer_id, period, now.currency)
    opening = now.balance_micro - since + spent
    return Totals(
        currency=now.currency,
        opening_micro=opening,
        top_ups_micro=inside.get(JournalKind.TOP_UP, 0),
        refunds_micro=inside.get(JournalKind.REFUND, 0),
        transfers_micro=inside.get(JournalKind.TRANSFER_IN, 0) + inside.get(JournalKind.TRANSFER_OUT, 0),
        adjustments_micro=inside.get(JournalKind.ADJUSTMENT, 0),
        promotions_micro=inside.get(JournalKind.PROMOTION, 0) + inside.get(JournalKind.PROMOTION_LAPSE, 0),
        usage_micro=usage,
        closing_micro=opening + sum(inside.values()) - usage,
        duration_ms=duration_ms,
    )


def _usage_totals(session: Session, customer_id: int, period: Period, currency: str) -> tuple[int, int]:
    """What usage cost in a period, and its device time in milliseconds."""
    sums = _meter_sums(customer_id, period).subquery()
    query = (
        select(func.coalesce(func.sum(sums.c.amount_micro), 0), func.coalesce(func.sum(sums.c.duration_ms), 0))
        .join(UsageMeter, UsageMeter.id == sums.c.meter_id)
        .join(PriceVersion, PriceVersion.id == UsageMeter.price_version_id)
        .where(PriceVersion.currency == currency)
    )
    amount, duration_ms = session.execute(query).one()
    return int(amount), int(duration_ms)


def _meter_sums(customer_id: int, period: Period) -> Select[*tuple[Any, ...]]:
    """Sums by meter: those of the whole hours in the period, and the postings of its two ends, one by one."""
    first, last = _hour_from(period.start), _hour_to(period.end)
    hours = select(UsageSum.meter_id, UsageSum.duration_ms, UsageSum.amount_micro).where(
        UsageSum.customer_id == customer_id, UsageSum.hour >= first, UsageSum.hour < last
    )
    parts = hours.union_all(*(_postings(customer_id, end) for end in _ends(period, first, last))).subquery()
    return select(
        parts.c.meter_id,
        func.sum(parts.c.duration_ms).label("duration_ms"),
        func.sum(parts.c.amount_micro).label("amount_micro"),
    ).group_by(parts.c.meter_id)


def _postings(customer_id: int, period: Period) -> Select[*tuple[Any, ...]]:
    return (
        select(Posting.meter_id, Posting.duration_ms, -Posting.amount_micro)
        .join(JournalTransaction, JournalTransaction.id == Posting.transaction_id)
        .where(JournalTransaction.customer_id == customer_id, Posting.meter_id.is_not(None))
        .where(JournalTransaction.at >= period.start, JournalTransaction.at < period.end)
    )


def _ends(period: Period, first: datetime, last: datetime) -> list[Period]:
    """What of a period is not in its whole hours `first..last`."""
    if first >= last:
        return [period]
    return [Period(period.start, first), Period(last, period.end)]


def _hour_to(moment: datetime) -> datetime:
    """The hour (UTC) that the moment is in: it begins then or before."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _hour_from(moment: datetime) -> datetime:
    """The first hour (UTC) that begins then or later."""
    hour = _hour_to(moment)
    return hour if hour == moment else hour + _HOUR


def lines(
    session: Session, customer_id: int, period: Period, *, cursor: str | None, limit: int
) -> tuple[list[Row[Any]], str | None]:
    """One line per allocation, GPU model and price version, newest first."""
    sums = _line_sums(customer_id, period).subquery()
    query = (
        select(sums, Environment.uid.label("environment_uid"), Environment.name.label("environment"))
        .add_columns(Task.uid.label("task_uid"), Task.name.label("task"))
        .add_columns(PriceVersion.uid.label("price_uid"), PriceVersion.currency)
        .join(PriceVersion, PriceVersion.id == sums.c.price_version_id)
        .outerjoin(Environment, Environment.id == sums.c.environment_id)
        .outerjoin(Task, Task.id == sums.c.task_id)
    )
    return page_rows(session, query, key=sums.c.first_meter, cursor=cursor, limit=limit)


def _line_sums(customer_id: int, period: Period) -> Select[*tuple[Any, ...]]:
    sums = _meter_sums(customer_id, period).subquery()
    return (
        select(
            func.min(UsageMeter.id).label("first_meter"),
            Hold.environment_id,
            Hold.task_id,
            Allocation.uid.label("allocation_uid"),
            Gpu.model.label("gpu_model"),
            UsageMeter.price_version_id,
            UsageMeter.terms,
            UsageMeter.price_micro_per_gpu_hour,
            func.sum(sums.c.duration_ms).label("duration_ms"),
            func.sum(sums.c.amount_micro).label("amount_micro"),
        )
        .join(UsageMeter, UsageMeter.id == sums.c.meter_id)
        .join(Hold, (Hold.allocation_id == UsageMeter.allocation_id) & (Hold.generation == UsageMeter.generation))
        .join(Gpu, Gpu.id == UsageMeter.gpu_id)
        .join(Allocation, Allocation.id == UsageMeter.allocation_id)
        .group_by(Hold.environment_id, Hold.task_id, Allocation.uid, Gpu.model)
        .group_by(UsageMeter.price_version_id, UsageMeter.terms, UsageMeter.price_micro_per_gpu_hour)
    )


def intervals(
    session: Session, customer_id: int, *, cursor: str | None, limit: int
) -> tuple[list[Row[Any]], str | None]:
    """Proven intervals, newest first, each with the time that its meter had proven before it."""
    earlier = aliased(UsageInterval)
    before = (
        select(func.coalesce(func.sum(earlier.to_ms - earlier.from_ms), 0))
        .where(earlier.meter_id == UsageInterval.meter_id, earlier.from_ms < UsageInterval.from_ms)
        .scalar_subquery()
    )
    query = (
        select(UsageInterval.from_ms, UsageInterval.to_ms, UsageMeter.milli, before.label("before_ms"))
        .add_columns(Allocation.uid.label("allocation_uid"), UsageMeter.generation)
        .add_columns(Gpu.uuid.label("gpu_uuid"), Gpu.model.label("gpu_model"), Gpu.simulated)
        .add_columns(UsageMeter.terms, UsageMeter.price_micro_per_gpu_hour)
        .add_columns(PriceVersion.uid.label("price_uid"), PriceVersion.currency)
        .add_columns(Environment.uid.label("environment_uid"), Environment.name.label("environment"))
        .add_columns(Task.uid.label("task_uid"), Task.name.label("task"))
        .join(UsageMeter, UsageMeter.id == UsageInterval.meter_id)
        .join(Hold, (Hold.allocation_id == UsageMeter.allocation_id) & (Hold.generation == UsageMeter.generation))
        .join(Gpu, Gpu.id == UsageMeter.gpu_id)
        .join(PriceVersion, PriceVersion.id == UsageMeter.price_version_id)
        .join(Allocation, Allocation.id == UsageMeter.allocation_id)
        .outerjoin(Environment, Environment.id == Hold.environment_id)
        .outerjoin(Task, Task.id == Hold.task_id)
        .where(UsageInterval.customer_id == customer_id)
    )
    return page_rows(session, query, key=UsageInterval.__table__.c.id, cursor=cursor, limit=limit)


def journal(session: Session, customer_id: int, *, cursor: str | None, limit: int) -> tuple[list[Row[Any]], str | None]:
    """Journal transactions with their postings as JSON, newest first."""
    posted = func.json_build_object(
        "account", Account.kind, "amount_micro", Posting.amount_micro, "duration_ms", Posting.duration_ms
    )
    query = (
        select(JournalTransaction.id, JournalTransaction.uid, JournalTransaction.at, JournalTransaction.kind)
        .add_columns(JournalTransaction.details["note"].astext.label("note"))
        .add_columns(func.json_agg(aggregate_order_by(posted, Posting.id)).label("postings"))
        .join(Posting, Posting.transaction_id == JournalTransaction.id)
        .join(Account, Account.id == Posting.account_id)
        .where(JournalTransaction.customer_id == customer_id)
        .group_by(JournalTransaction.id)
    )
    return page_rows(session, query, key=JournalTransaction.__table__.c.id, cursor=cursor, limit=limit)
