"""What the billing endpoints do, in the caller's transaction."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.billing import statement
from api.billing.journal import Balance, balance, top_up
from api.billing.schemas import (
    BalanceOut,
    JournalOut,
    MovementOut,
    PostingOut,
    StatementLine,
    StatementOut,
    StatementTotals,
    TopUpIn,
    UsageOut,
)
from api.billing.statement import Period
from api.clock import from_ms
from api.errors import NotFound
from api.ids import new_uid
from api.pagination import Page
from api.principal import Principal
from api.tenants.tables import Customer
from scheduler.money import cumulative_charge_micro
from scheduler.prices import PriceTerms


def add_money(session: Session, principal: Principal, customer_uid: UUID, body: TopUpIn) -> MovementOut:
    """Raises NotFound for a customer that there is not."""
    customer_id = session.scalar(
        select(Customer.id).where(Customer.uid == customer_uid).with_for_update(key_share=True)
    )
    if customer_id is None:
        raise NotFound("There is no such customer.")
    made = top_up(
        session,
        customer_id=customer_id,
        amount_micro=body.amount_micro,
        actor=principal.actor,
        key=str(new_uid()),
        note=body.note,
    )
    record(
        session,
        actor=principal.actor,
        action="customer.top_up",
        target=f"customer:{customer_uid}",
        customer_id=customer_id,
        address=principal.address,
        details={"amount_micro": body.amount_micro, "note": body.note, "transaction": str(made.uid)},
    )
    after = balance_view(balance(session, customer_id))
    return MovementOut(id=made.uid, amount_micro=body.amount_micro, **after.model_dump())


def balance_view(found: Balance) -> BalanceOut:
    return BalanceOut(
        currency=found.currency,
        balance_micro=found.balance_micro,
        held_micro=found.held_micro,
        available_micro=found.available_micro,
        credit_limit_micro=found.credit_limit_micro,
    )


def usage_page(session: Session, customer_id: int, *, cursor: str | None, limit: int) -> Page[UsageOut]:
    rows, next_cursor = statement.intervals(session, customer_id, cursor=cursor, limit=limit)
    return Page(items=[_usage(row) for row in rows], next_cursor=next_cursor)


def statement_page(
    session: Session, customer_id: int, period: Period, *, cursor: str | None, limit: int
) -> StatementOut:
    statement.read_snapshot(session)
    totals = statement.totals(session, customer_id, period)
    rows, next_cursor = statement.lines(session, customer_id, period, cursor=cursor, limit=limit)
    return StatementOut(
        start=period.start,
        end=period.end,
        currency=totals.currency,
        totals=StatementTotals(
            opening_balance_micro=totals.opening_micro,
            top_ups_micro=totals.top_ups_micro,
            refunds_micro=totals.refunds_micro,
            transfers_micro=totals.transfers_micro,
            adjustments_micro=totals.adjustments_micro,
            promotions_micro=totals.promotions_micro,
            amount_micro=totals.usage_micro,
            duration_ms=totals.duration_ms,
            closing_balance_micro=totals.closing_micro,
        ),
        lines=[_line(row) for row in rows],
        next_cursor=next_cursor,
    )


def journal_page(session: Session, customer_id: int, *, cursor: str | None, limit: int) -> Page[JournalOut]:
    rows, next_cursor = statement.journal(session, customer_id, cursor=cursor, limit=limit)
    items = [
        JournalOut(
            id=row.uid, at=row.at, kind=row.kind, note=row.note, postings=[PostingOut(**each) for each in row.postings]
        )
        for row in rows
    ]
    return Page(items=items, next_cursor=next_cursor)


def _usage(row: Row[Any]) -> UsageOut:
    before, after = int(row.before_ms), int(row.before_ms) + row.to_ms - row.from_ms
    return UsageOut(
        environment_id=row.environment_uid,
        environment=row.environment,
        task_id=row.task_uid,
        task=row.task,
        allocation_id=row.allocation_uid,
        generation=row.generation,
        gpu_uuid=row.gpu_uuid,
        gpu_model=row.gpu_model,
        simulated=row.simulated,
        milli=row.milli,
        start=from_ms(row.from_ms),
        end=from_ms(row.to_ms),
        duration_ms=row.to_ms - row.from_ms,
        # Differences of the cumulative charge: they add up to what the meter was charged, to the unit.
        amount_micro=_charge(row, after) - _charge(row, before),
        price_version=row.price_uid,
        terms=PriceTerms(row.terms),
        price_micro_per_gpu_hour=row.price_micro_per_gpu_hour,
        currency=row.currency,
    )


def _charge(row: Row[Any], duration_ms: int) -> int:
    return cumulative_charge_micro(
        price_micro_per_gpu_hour=row.price_micro_per_gpu_hour, milli=row.milli, duration_ms=duration_ms
    )


def _line(row: Row[Any]) -> StatementLine:
    return StatementLine(
        environment_id=row.environment_uid,
        environment=row.environment,
        task_id=row.task_uid,
        task=row.task,
        allocation_id=row.allocation_uid,
        gpu_model=row.gpu_model,
        price_version=row.price_uid,
        terms=PriceTerms(row.terms),
        price_micro_per_gpu_hour=row.price_micro_per_gpu_hour,
        currency=row.currency,
        duration_ms=int(row.duration_ms),
        amount_micro=int(row.amount_micro),
    )
