"""How long a customer's money lasts, and their warnings, in the caller's transaction."""

from sqlalchemy.orm import Session

from api.audit.service import record
from api.billing.journal import balance
from api.billing.schemas import RunTimeOut, ThresholdsIn, WarningOut
from api.billing.spending import load_spending
from api.billing.tables import BalanceWarning
from api.billing.warnings import open_warnings, set_thresholds, warnings_page
from api.clock import utc_now
from api.pagination import Page
from api.principal import Principal
from api.tenants.tables import Customer
from scheduler.money import MILLI_PER_GPU


def run_time(session: Session, customer_id: int, *, grace_s: int) -> RunTimeOut:
    """`grace_s` is the platform's own, for what has none."""
    now = utc_now()
    customer, money = session.get_one(Customer, customer_id), balance(session, customer_id)
    spending = next(iter(load_spending(session, grace_s=grace_s, now=now, customer_ids=[customer_id])), None)
    return RunTimeOut(
        currency=money.currency,
        available_micro=money.available_micro,
        spending_micro_per_hour=0 if spending is None else spending.rate // MILLI_PER_GPU,
        runs_out_at=None if spending is None else spending.runs_out_at(now),
        warn_before_s=customer.warn_before_s,
        warnings=[_warning(row) for row in open_warnings(session, customer_id)],
    )


def change_thresholds(session: Session, principal: Principal, body: ThresholdsIn, *, grace_s: int) -> RunTimeOut:
    set_thresholds(session, principal.tenant_id, body.warn_before_s)
    record(
        session,
        actor=principal.actor,
        action="customer.warn_before",
        target=f"user:{principal.user_uid}",
        customer_id=principal.tenant_id,
        address=principal.address,
        details=body.model_dump(),
    )
    session.flush()
    return run_time(session, principal.tenant_id, grace_s=grace_s)


def warning_page(session: Session, customer_id: int, *, cursor: str | None, limit: int) -> Page[WarningOut]:
    rows, following = warnings_page(session, customer_id, cursor=cursor, limit=limit)
    return Page(items=[_warning(row.BalanceWarning) for row in rows], next_cursor=following)


def _warning(row: BalanceWarning) -> WarningOut:
    return WarningOut(
        id=row.uid,
        threshold_s=row.threshold_s,
        raised_at=row.raised_at,
        runs_out_at=row.runs_out_at,
        cleared_at=row.cleared_at,
    )
