"""Reading allocations, a tenant's only through a query of that tenant's, with what belongs to them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from api.allocations.schemas import AllocationDetail, AllocationEventOut, AllocationSummary
from api.allocations.tables import Allocation, AllocationDevice, AllocationEvent
from api.billing.tables import PriceVersion
from api.environments.schemas import DeviceOut, WaitOut
from api.errors import NotFound
from api.identity.tables import User
from api.machines.tables import Gpu, Host
from api.principal import Principal, Role
from api.tenants.tables import Customer, Workspace
from scheduler.states import AllocationState, EndReason

MAX_EVENTS = 200

ALL: Select[*tuple[Any, ...]] = (
    select(
        Allocation,
        Customer.uid.label("customer_uid"),
        Customer.name.label("customer"),
        Workspace.name.label("workspace"),
        User.username.label("username"),
        Host.name.label("host"),
        PriceVersion.price_micro_per_gpu_hour.label("price_micro_per_gpu_hour"),
        PriceVersion.currency.label("currency"),
    )
    .join(Customer, Customer.id == Allocation.customer_id)
    .join(Workspace, Workspace.id == Allocation.workspace_id)
    .join(User, User.id == Allocation.user_id)
    .outerjoin(Host, Host.id == Allocation.host_id)
    .outerjoin(PriceVersion, PriceVersion.id == Allocation.price_version_id)
)
"""Every tenant's: for administrators."""


def visible_to(principal: Principal) -> Select[*tuple[Any, ...]]:
    """A customer's: members see their own, owners all of their customer's."""
    query = ALL.where(Allocation.customer_id == principal.tenant_id)
    if principal.role is not Role.OWNER:
        query = query.where(Allocation.user_id == principal.user_id)
    return query


def find(session: Session, query: Select[*tuple[Any, ...]], uid: UUID) -> AllocationDetail:
    """One allocation of those that `query` selects, with its events.

    Raises:
        NotFound: it selects none with that id.
    """
    row = session.execute(query.where(Allocation.uid == uid)).one_or_none()
    if row is None:
        raise NotFound("There is no such allocation.")
    (summary,) = summaries(session, [row])
    events = session.scalars(
        select(AllocationEvent)
        .where(AllocationEvent.allocation_id == row.Allocation.id)
        .order_by(AllocationEvent.id.desc())
        .limit(MAX_EVENTS)
    ).all()
    return AllocationDetail(**dict(summary), events=[_event(event) for event in reversed(events)])


def summaries(session: Session, rows: Sequence[Any]) -> list[AllocationSummary]:
    """Rows of `ALL` or `visible_to`, as the API shows them."""
    devices = _devices(session, [row.Allocation for row in rows])
    return [_summary(row, devices.get(row.Allocation.id, [])) for row in rows]


def _summary(row: Any, devices: list[DeviceOut]) -> AllocationSummary:
    allocation: Allocation = row.Allocation
    return AllocationSummary(
        id=allocation.uid,
        kind=allocation.kind,
        state=AllocationState(allocation.state),
        end_reason=EndReason(allocation.end_reason) if allocation.end_reason else None,
        end_detail=allocation.end_detail,
        generation=allocation.generation,
        customer_id=row.customer_uid,
        customer=row.customer,
        workspace=row.workspace,
        user=row.username,
        gpus=allocation.gpus,
        gpu_model=allocation.gpu_model,
        cpu_milli=allocation.cpu_milli,
        memory_bytes=allocation.memory_bytes,
        disk_bytes=allocation.disk_bytes,
        host=row.host,
        devices=devices,
        run_until=allocation.run_until,
        price_micro_per_gpu_hour=row.price_micro_per_gpu_hour,
        currency=row.currency,
        wait=_wait(allocation),
        queued_at=allocation.queued_at,
        placed_at=allocation.placed_at,
        active_at=allocation.active_at,
        releasing_at=allocation.releasing_at,
        released_at=allocation.released_at,
    )


def _wait(allocation: Allocation) -> WaitOut | None:
    if allocation.state != AllocationState.QUEUED:
        return None
    if allocation.wait_reason is None:
        return WaitOut(code="queued", detail="It waits for the scheduler to look at it.")
    return WaitOut.model_validate(allocation.wait_reason)


def _devices(session: Session, allocations: Sequence[Allocation]) -> dict[int, list[DeviceOut]]:
    placed = [row for row in allocations if row.state != AllocationState.QUEUED and row.generation > 0]
    if not placed:
        return {}
    query = (
        select(
            AllocationDevice.allocation_id,
            Gpu.uuid,
            Gpu.model,
            Gpu.simulated,
            (AllocationDevice.milli_to - AllocationDevice.milli_from).label("milli"),
        )
        .join(Gpu, Gpu.id == AllocationDevice.gpu_id)
        .where(
            tuple_(AllocationDevice.allocation_id, AllocationDevice.generation).in_(
                [(row.id, row.generation) for row in placed]
            )
        )
        .order_by(Gpu.index)
    )
    found: dict[int, list[DeviceOut]] = {}
    for row in session.execute(query):
        device = DeviceOut(uuid=row.uuid, model=row.model, milli=row.milli, simulated=row.simulated)
        found.setdefault(row.allocation_id, []).append(device)
    return found


def _event(event: AllocationEvent) -> AllocationEventOut:
    return AllocationEventOut(
        at=event.at,
        actor=event.actor,
        from_state=AllocationState(event.from_state) if event.from_state else None,
        to_state=AllocationState(event.to_state),
        reason=event.reason,
    )
