"""`releasing -> released`: the devices are free when the host has confirmed the end, or is lost."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations import devices, groups
from api.allocations.admission import ACTOR, lock_with_customer
from api.allocations.tables import Allocation, PlacementGroup
from api.allocations.transitions import move
from api.billing.holds import settle_hold
from api.machines.tables import Host
from api.settings import Settings
from scheduler.host_protocol import LeaseEnd
from scheduler.ports import Releasing
from scheduler.states import AllocationState, DeviceStatus


def load_releasing(session: Session, *, settings: Settings) -> list[Releasing]:
    query = (
        select(Allocation, Host, PlacementGroup.name)
        .outerjoin(Host, Host.id == Allocation.host_id)
        .outerjoin(PlacementGroup, PlacementGroup.allocation_id == Allocation.id)
        .where(Allocation.state == AllocationState.RELEASING)
        .order_by(Allocation.id)
    )
    return [
        Releasing(
            allocation_id=allocation.id,
            allocation_uid=str(allocation.uid),
            generation=allocation.generation,
            group_name=group_name,
            host_uid=str(host.uid) if host else None,
            host_lost=host is None or host.device_status == DeviceStatus.LOST,
            grace_s=settings.stop_grace_s,
        )
        for allocation, host, group_name in session.execute(query)
    ]


def release(session: Session, allocation_id: int, *, generation: int, ended: LeaseEnd | None, now: datetime) -> None:
    """Close the device rows, settle the hold, hand back the group. Idempotent; an older generation changes nothing."""
    locked_at = devices.lock_placement(session)
    _, allocation = lock_with_customer(session, allocation_id)
    if allocation.state != AllocationState.RELEASING or allocation.generation != generation:
        return
    devices.vacate(session, allocation, at=locked_at)
    groups.hand_back(session, allocation, now=now)
    settle_hold(session, allocation, ended=ended)
    move(session, allocation, AllocationState.RELEASED, actor=ACTOR)
