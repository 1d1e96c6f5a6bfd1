"""Top-ups for administrators; balance, usage, statement and journal for customers."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.billing import service
from api.billing.journal import Balance, balance
from api.billing.schemas import (
    BalanceOut,
    JournalOut,
    MovementOut,
    StatementOut,
    TopUpIn,
    UsageOut,
)
from api.billing.statement import Period
from api.clock import utc_now
from api.deps import DatabaseDep, PrincipalDep
from api.errors import NotFound, Unprocessable
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page
from api.problems import problems
from api.tenants.tables import Customer

router = APIRouter(tags=["billing"])

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
FromQuery = Annotated[
    AwareDatetime | None, Query(alias="from", description="Inclusive; the beginning of this month (UTC) by default")
]
ToQuery = Annotated[AwareDatetime | None, Query(alias="to", description="Exclusive; now by default")]


@router.post("/admin/customers/{customer_id}/top-up", status_code=201, responses=problems(404, 409))
def add_money(
    customer_id: UUID, body: TopUpIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Add prepaid money to a customer's balance. Send an `Idempotency-Key`: money is what one retries with care."""
    return database.transact(
        lambda session: once.run(session, MovementOut, lambda: service.add_money(session, principal, customer_id, body))
    )


@router.get("/admin/customers/{customer_id}/balance", responses=problems(404))
def customer_balance(customer_id: UUID, database: DatabaseDep) -> BalanceOut:
    """A customer's balance."""

    def work(session: Session) -> Balance:
        found = session.scalar(select(Customer.id).where(Customer.uid == customer_id))
        if found is None:
            raise NotFound("There is no such customer.")
        return balance(session, found)

    return service.balance_view(database.transact(work))


@router.get("/customer/billing/balance")
def own_balance(database: DatabaseDep, principal: PrincipalDep) -> BalanceOut:
    """Your balance: all of it, what is held for running work, and what is available."""
    return service.balance_view(database.transact(lambda session: balance(session, principal.tenant_id)))


@router.get("/customer/billing/usage", responses=problems(400))
def own_usage(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[UsageOut]:
    """Your proven running time, newest first, of what runs too."""
    return database.transact(
        lambda session: service.usage_page(session, principal.tenant_id, cursor=cursor, limit=limit)
    )


@router.get("/customer/billing/statement", responses=problems(400))
def own_statement(
    database: DatabaseDep,
    principal: PrincipalDep,
    start: FromQuery = None,
    end: ToQuery = None,
    limit: LimitQuery = 200,
    cursor: CursorQuery = None,
) -> StatementOut:
    """What was charged in a period, by the moment of posting: `from <= at < to`. It agrees with the journal."""
    now = utc_now()
    end = now if end is None else end
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) if start is None else start
    if not EARLIEST <= start <= LATEST or not EARLIEST <= end <= LATEST:
        raise Unprocessable("`from` and `to` must lie between the years 2000 and 9000.")
    if start > end:
        raise Unprocessable("`from` must not be later than `to`.")
    period = Period(start, end)
    return database.transact(
        lambda session: service.statement_page(session, principal.tenant_id, period, cursor=cursor, limit=limit)
    )


@router.get("/customer/billing/journal", responses=problems(400))
def own_journal(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[JournalOut]:
    """Every journal transaction on your accounts, newest first, with its postings."""
    return database.transact(
        lambda session: service.journal_page(session, principal.tenant_id, cursor=cursor, limit=limit)
    )
