"""Refund, transfer, adjustment and credit limit, for administrators."""

from uuid import UUID

from fastapi import APIRouter

from api.billing import movement_service as service
from api.billing.schemas import AdjustmentIn, BalanceOut, CreditLimitIn, MovementOut, RefundIn, TransferIn
from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.problems import problems

router = APIRouter(prefix="/admin/customers/{customer_id}", tags=["billing"])


@router.post("/refund", status_code=201, responses=problems(404, 409))
def refund(
    customer_id: UUID, body: RefundIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Give back what a customer has paid in, as far as nothing runs on it. `not_enough` names the most."""
    return database.transact(
        lambda session: once.run(
            session, MovementOut, lambda: service.refund_money(session, principal, customer_id, body)
        )
    )


@router.post("/transfer", status_code=201, responses=problems(404, 409))
def transfer(
    customer_id: UUID, body: TransferIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Move what a customer has paid in, and is free, to another one. Answers the balance of the one it came from."""
    return database.transact(
        lambda session: once.run(
            session, MovementOut, lambda: service.transfer_money(session, principal, customer_id, body)
        )
    )


@router.post("/adjustments", status_code=201, responses=problems(404, 409))
def adjust(
    customer_id: UUID, body: AdjustmentIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> MovementOut:
    """Give a customer an amount or take it, for a reason. It is no payment: it can be spent, and not be refunded."""
    return database.transact(
        lambda session: once.run(
            session, MovementOut, lambda: service.adjust_money(session, principal, customer_id, body)
        )
    )


@router.put("/credit-limit", responses=problems(404, 409))
def limit_credit(customer_id: UUID, body: CreditLimitIn, database: DatabaseDep, principal: PrincipalDep) -> BalanceOut:
    """How far below zero the balance of a customer may go who pays afterwards. Never less than what they owe."""
    return database.transact(lambda session: service.limit_credit(session, principal, customer_id, body))
