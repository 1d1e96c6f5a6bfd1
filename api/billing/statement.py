"""A customer's statement: sums of the journal's postings in a period, and the intervals and entries behind them.

A period is `from <= at < to` by the moment of posting. Late proof appears in the period in which it arrived, so that a
closed period never changes.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, aliased

from api.allocations.tables import Allocation
from api.billing.journal import JournalKind, balance
from api.billing.tables import Account, Hold, JournalTransaction, Posting, PriceVersion
from api.environments.tables import Environment
from api.machines.tables import Gpu
from api.metering.tables import UsageInterval, UsageMeter
from api.pagination import page_rows
from api.tasks.tables import Task


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
    changes = (
        select(JournalTransaction.kind, func.sum(Posting.amount_micro), func.sum(Posting.duration_ms))
        .join(Posting, Posting.transaction_id == JournalTransaction.id)
        .join(Account, Account.id == Posting.account_id)
        .where(JournalTransaction.customer_id == customer_id, JournalTransaction.at >= period.start)
        .where(Account.kind.in_(("wallet", "holds")), Account.currency == now.currency)
        .group_by(JournalTransaction.kind)
    )
    since = {row[0]: int(row[1]) for row in session.execute(changes)}
    within = {row[0]: row for row in session.execute(changes.where(JournalTransaction.at < period.end))}
    inside = {kind: int(row[1]) for kind, row in within.items()}
    opening = now.balance_micro - sum(since.values())
    usage = within.get(JournalKind.USAGE)
    return Totals(
        currency=now.currency,
        opening_micro=opening,
        top_ups_micro=inside.get(JournalKind.TOP_UP, 0),
        refunds_micro=inside.get(JournalKind.REFUND, 0),
        transfers_micro=inside.get(JournalKind.TRANSFER_IN, 0) + inside.get(JournalKind.TRANSFER_OUT, 0),
        adjustments_micro=inside.get(JournalKind.ADJUSTMENT, 0),
        promotions_micro=inside.get(JournalKind.PROMOTION, 0) + inside.get(JournalKind.PROMOTION_LAPSE, 0),
        usage_micro=-inside.get(JournalKind.USAGE, 0),
        closing_micro=opening + sum(inside.values()),
        duration_ms=int(usage[2] or 0) if usage else 0,
    )


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
            func.sum(Posting.duration_ms).label("duration_ms"),
            (-func.sum(Posting.amount_micro)).label("amount_micro"),
        )
        .join(JournalTransaction, JournalTransaction.id == Posting.transaction_id)
        .join(UsageMeter, UsageMeter.id == Posting.meter_id)
        .join(Hold, (Hold.allocation_id == UsageMeter.allocation_id) & (Hold.generation == UsageMeter.generation))
        .join(Gpu, Gpu.id == UsageMeter.gpu_id)
        .join(Allocation, Allocation.id == UsageMeter.allocation_id)
        .where(JournalTransaction.customer_id == customer_id)
        .where(JournalTransaction.at >= period.start, JournalTransaction.at < period.end)
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
