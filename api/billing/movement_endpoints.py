"""Refund, transfer, adjustment, credit limit and promotions, for administrators; a customer's own promotions."""

from uuid import UUID

from fastapi import APIRouter

from api.billing import movement_service as service
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
from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page
from api.problems import problems

router = APIRouter(tags=["billing"])

_ONE = "/admin/customers/{customer_id}"


@router.post(f"{_ONE}/refund", status_code=201, responses=problems(404, 409))
def refund(
    customer_id: UUID, body: RefundIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Give back what a customer has paid in, as far as nothing runs on it. `not_enough` names the most."""
    return database.transact(
        lambda session: once.run(
            session, MovementOut, lambda: service.refund_money(session, principal, customer_id, body)
        )
    )


@router.post(f"{_ONE}/transfer", status_code=201, responses=problems(404, 409))
def transfer(
    customer_id: UUID, body: TransferIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Move what a customer has paid in, and is free, to another one. Answers the balance of the one it came from."""
    return database.transact(
        lambda session: once.run(
            session, MovementOut, lambda: service.transfer_money(session, principal, customer_id, body)
        )
    )


@router.post(f"{_ONE}/adjustments", status_code=201, responses=problems(404, 409))
def adjust(
    customer_id: UUID, body: AdjustmentIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Give a customer an amount or take it, for a reason. It is no payment: it can be spent, and not be refunded."""
    return database.transact(
        lambda session: once.run(
            session, MovementOut, lambda: service.adjust_money(session, principal, customer_id, body)
        )
    )


@router.put(f"{_ONE}/credit-limit", responses=problems(404, 409))
def limit_credit(customer_id: UUID, body: CreditLimitIn, database: DatabaseDep, principal: PrincipalDep) -> BalanceOut:
    """How far below zero the balance of a customer may go who pays afterwards. Never less than what they owe."""
    return database.transact(lambda session: service.limit_credit(session, principal, customer_id, body))


@router.post(f"{_ONE}/promotions", status_code=201, responses=problems(404, 409))
def give_credit(
    customer_id: UUID, body: PromotionIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> PromotionOut:
    """Give a customer credit that is spent before their own money, and goes back where it is not spent in time."""
    return database.transact(
        lambda session: once.run(
            session, PromotionOut, lambda: service.give_credit(session, principal, customer_id, body)
        )
    )


@router.get(f"{_ONE}/promotions", responses=problems(400, 404))
def list_credits(
    customer_id: UUID, database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[PromotionOut]:
    """A customer's promotions, newest first."""
    return database.transact(
        lambda session: service.credit_page(
            session, service.find_customer(session, customer_id), cursor=cursor, limit=limit
        )
    )


@router.get("/customer/billing/promotions", responses=problems(400))
def own_credits(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[PromotionOut]:
    """The credit that you were given, newest first: what is left of it is spent before your own money."""
    return database.transact(
        lambda session: service.credit_page(session, principal.tenant_id, cursor=cursor, limit=limit)
    )
