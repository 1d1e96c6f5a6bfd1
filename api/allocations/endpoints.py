"""Allocations over HTTP: administrators see and end all, customers see theirs."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations import repository, service, what_if
from api.allocations.plan_schemas import PlanIn, PlanOut
from api.allocations.schemas import AllocationDetail, AllocationEnd, AllocationSummary
from api.allocations.tables import Allocation
from api.audit.service import record
from api.deps import DatabaseDep, PlannerDep, PrincipalDep, SettingsDep
from api.errors import NotFound
from api.pagination import CursorQuery, LimitQuery, Page
from api.problems import problems
from scheduler.states import AllocationState, EndReason

router = APIRouter(tags=["allocations"])

StateQuery = Annotated[AllocationState | None, Query(description="Only those in this state")]


@router.get("/admin/allocations", response_model=Page[AllocationSummary], responses=problems(400))
async def list_all_allocations(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    state: StateQuery = None,
    customer: Annotated[UUID | None, Query(description="Only this customer's")] = None,
    host: Annotated[UUID | None, Query(description="Only those on this machine, now or at last")] = None,
) -> Response:
    """Newest first."""
    named = {"state": state, "customer": customer, "host": host}
    filters = {name: value for name, value in named.items() if value is not None}
    return await repository.LIST.page(database, filters, cursor=cursor, limit=limit)


@router.get("/admin/allocations/{allocation_id}", responses=problems(404))
def get_any_allocation(allocation_id: UUID, database: DatabaseDep) -> AllocationDetail:
    with database.session() as session:
        return repository.find(session, repository.ALL, allocation_id)


@router.post("/admin/allocations/{allocation_id}/end", responses=problems(400, 404))
def end_allocation(
    allocation_id: UUID, database: DatabaseDep, principal: PrincipalDep, body: AllocationEnd | None = None
) -> AllocationDetail:
    """Ask for its end, whatever runs in it. Asking again changes nothing."""
    reason = body.reason if body else ""

    def work(session: Session) -> AllocationDetail:
        allocation = session.scalars(select(Allocation).where(Allocation.uid == allocation_id)).one_or_none()
        if allocation is None:
            raise NotFound("There is no such allocation.")
        service.request_end(session, allocation, end_reason=EndReason.CANCELLED, actor=principal.actor, reason=reason)
        record(
            session,
            actor=principal.actor,
            action="allocation.end",
            target=f"allocation:{allocation.uid}",
            customer_id=allocation.customer_id,
            address=principal.address,
            details={"reason": reason},
        )
        session.flush()
        return repository.find(session, repository.ALL, allocation_id)

    return database.transact(work)


@router.get("/customer/allocations", response_model=Page[AllocationSummary], responses=problems(400))
async def list_allocations(
    database: DatabaseDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    state: StateQuery = None,
) -> Response:
    """Members see their own, owners their customer's; newest first."""
    filters = repository.scope_of(principal) | ({"state": state} if state is not None else {})
    return await repository.LIST.page(database, filters, cursor=cursor, limit=limit)


@router.post("/customer/allocations/plan")
def plan_allocation(
    body: PlanIn, database: DatabaseDep, settings: SettingsDep, planner: PlannerDep, principal: PrincipalDep
) -> PlanOut:
    """When and where this would start, and what it would cost: nothing is queued.

    `when` is `now`, `later` (at `eta`, on what `wait.eta_basis` says), `unknown`, or `never` with the reason. The
    answer is of this moment and keeps nothing for you. 503 `controller_unavailable` while no controller leads.
    """
    return what_if.plan(database, settings, planner, principal, body)


@router.get("/customer/allocations/{allocation_id}", responses=problems(404))
def get_allocation(allocation_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> AllocationDetail:
    with database.session() as session:
        return repository.find(session, repository.visible_to(principal), allocation_id)


@router.post("/customer/allocations/{allocation_id}/checkpoint", responses=problems(404, 409))
def note_checkpoint(allocation_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> AllocationDetail:
    """Say that its work is safe up to now. If somebody has to give way, it is who loses the least of such work.

    409 `not_running` if it holds nothing, or ends.
    """

    def work(session: Session) -> AllocationDetail:
        mine = repository.visible_to(principal)
        repository.find(session, mine, allocation_id)
        allocation = session.scalars(select(Allocation).where(Allocation.uid == allocation_id)).one()
        service.note_checkpoint(session, allocation)
        record(
            session,
            actor=principal.actor,
            action="allocation.checkpoint",
            target=f"allocation:{allocation.uid}",
            customer_id=allocation.customer_id,
            address=principal.address,
        )
        session.flush()
        return repository.find(session, mine, allocation_id)

    return database.transact(work)
