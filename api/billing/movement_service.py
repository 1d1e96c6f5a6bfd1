"""What an administrator does with a customer's money, in the caller's transaction: each leaves an audit row."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.billing.journal import Posted, balance
from api.billing.movements import (
    CurrenciesDifferError,
    MovementError,
    OwedError,
    adjust,
    refund,
    set_credit_limit,
    transfer_between,
)
from api.billing.promotions import Left, grant, promotions_page
from api.billing.schemas import (
    AdjustmentIn,
    BalanceOut,
    CreditLimitIn,
    MovementOut,
    PromotionIn,
    PromotionOut,
    RefundIn,
    TransferIn,
)
from api.billing.service import balance_view
from api.clock import utc_now
from api.errors import Conflict, NotFound, Unprocessable
from api.pagination import Page
from api.principal import Principal
from api.tenants.tables import Customer

LATEST_EXPIRY = datetime(9000, 1, 1, tzinfo=UTC)


def refund_money(session: Session, principal: Principal, customer_uid: UUID, body: RefundIn) -> MovementOut:
    """Raises NotFound, or Conflict: `not_enough`."""
    customer_id = find_customer(session, customer_uid)
    try:
        made = refund(
            session, customer_id=customer_id, amount_micro=body.amount_micro, actor=principal.actor, note=body.note
        )
    except MovementError as error:
        raise _not_enough(error) from error
    _audit(session, principal, customer_uid, customer_id, "refund", transaction=str(made.uid), **body.model_dump())
    return _moved(session, customer_id, made, body.amount_micro)


def transfer_money(session: Session, principal: Principal, customer_uid: UUID, body: TransferIn) -> MovementOut:
    """Raises NotFound, Unprocessable for a transfer to the customer themselves or into another currency
    (`currencies_differ`), or Conflict: `not_enough`.
    """
    source_id, target_id = find_customer(session, customer_uid), find_customer(session, body.to)
    if source_id == target_id:
        raise Unprocessable("`to` must be another customer.")
    try:
        out, into = transfer_between(
            session,
            source_id=source_id,
            target_id=target_id,
            amount_micro=body.amount_micro,
            actor=principal.actor,
            note=body.note,
        )
    except CurrenciesDifferError as error:
        raise Unprocessable(str(error), code="currencies_differ") from error
    except MovementError as error:
        raise _not_enough(error) from error
    said: dict[str, Any] = {"amount_micro": body.amount_micro, "note": body.note}
    gone = {"transaction": str(out.uid), "to": str(body.to), **said}
    come = {"transaction": str(into.uid), "from": str(customer_uid), **said}
    _audit(session, principal, customer_uid, source_id, "transfer_out", **gone)
    _audit(session, principal, body.to, target_id, "transfer_in", **come)
    return _moved(session, source_id, out, body.amount_micro)


def adjust_money(session: Session, principal: Principal, customer_uid: UUID, body: AdjustmentIn) -> MovementOut:
    """Raises NotFound, Unprocessable for zero, or Conflict: `not_enough`."""
    customer_id = find_customer(session, customer_uid)
    if body.amount_micro == 0:
        raise Unprocessable("`amount_micro` must not be zero.")
    try:
        made = adjust(
            session, customer_id=customer_id, amount_micro=body.amount_micro, actor=principal.actor, reason=body.reason
        )
    except MovementError as error:
        raise _not_enough(error) from error
    _audit(session, principal, customer_uid, customer_id, "adjustment", transaction=str(made.uid), **body.model_dump())
    return _moved(session, customer_id, made, body.amount_micro)


def limit_credit(session: Session, principal: Principal, customer_uid: UUID, body: CreditLimitIn) -> BalanceOut:
    """Raises NotFound, or Conflict: `owes_more`."""
    customer_id = find_customer(session, customer_uid)
    try:
        set_credit_limit(session, customer_id=customer_id, limit_micro=body.credit_limit_micro)
    except OwedError as error:
        raise Conflict(str(error), code="owes_more") from error
    _audit(session, principal, customer_uid, customer_id, "credit_limit", **body.model_dump())
    return balance_view(balance(session, customer_id))


def give_credit(session: Session, principal: Principal, customer_uid: UUID, body: PromotionIn) -> PromotionOut:
    """Raises NotFound, or Unprocessable for an end that is not ahead."""
    customer_id = find_customer(session, customer_uid)
    if not utc_now() < body.expires_at < LATEST_EXPIRY:
        raise Unprocessable("`expires_at` must lie in the future, and before the year 9000.")
    made = grant(
        session,
        customer_id=customer_id,
        amount_micro=body.amount_micro,
        expires_at=body.expires_at,
        actor=principal.actor,
        note=body.note,
    )
    details = body.model_dump(mode="json")
    _audit(session, principal, customer_uid, customer_id, "promotion", promotion=str(made.uid), **details)
    session.refresh(made)
    return _promotion(Left(made, made.left_micro))


def credit_page(session: Session, customer_id: int, *, cursor: str | None, limit: int) -> Page[PromotionOut]:
    rows, following = promotions_page(session, customer_id, cursor=cursor, limit=limit)
    return Page(items=[_promotion(each) for each in rows], next_cursor=following)


def find_customer(session: Session, uid: UUID) -> int:
    """Without a lock: the accounts' own are enough for money. Raises NotFound."""
    found = session.scalar(select(Customer.id).where(Customer.uid == uid))
    if found is None:
        raise NotFound("There is no such customer.")
    return found


def _promotion(found: Left) -> PromotionOut:
    promotion = found.promotion
    return PromotionOut(
        id=promotion.uid,
        currency=promotion.currency,
        amount_micro=promotion.amount_micro,
        left_micro=found.left_micro,
        note=promotion.note,
        granted_at=promotion.granted_at,
        expires_at=promotion.expires_at,
        closed_at=promotion.closed_at,
    )


def _moved(session: Session, customer_id: int, made: Posted, amount_micro: int) -> MovementOut:
    after = balance_view(balance(session, customer_id))
    return MovementOut(id=made.uid, amount_micro=amount_micro, **after.model_dump())


def _not_enough(error: MovementError) -> Conflict:
    return Conflict(str(error), code="not_enough")


def _audit(
    session: Session, principal: Principal, customer_uid: UUID, customer_id: int, action: str, **details: Any
) -> None:
    record(
        session,
        actor=principal.actor,
        action=f"customer.{action}",
        target=f"customer:{customer_uid}",
        customer_id=customer_id,
        address=principal.address,
        details=details,
    )
