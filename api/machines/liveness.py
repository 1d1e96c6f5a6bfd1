"""The sweep that calls silent hosts unreachable, and lost once nothing can still run on them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.devices import holding_on
from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.db import Database
from api.machines.status import Judgement, judge, may_be_lost
from api.machines.tables import Host
from api.machines.transitions import observe
from api.settings import Settings
from scheduler.states import AdminState, AllocationState, DeviceStatus, EndReason

ACTOR = "controller"
_NOT_HELD = (AllocationState.QUEUED, AllocationState.RELEASED)


def sweep(database: Database, settings: Settings, *, ray_alive: Mapping[str, str], now: datetime) -> None:
    """Bring every host's observed status up to date. `ray_alive` maps host uids to Ray node ids.

    A host is never called lost while a lease of its own may still run (invariant I5).
    """
    with database.session() as session:
        hosts = list(session.scalars(_HEARD_OF))
    for host in hosts:
        node_id = ray_alive.get(str(host.uid))
        judgement = _judge(host, settings, in_ray=node_id is not None, now=now)
        if judgement.status is DeviceStatus.UNREACHABLE:
            database.transact(partial(_silent, host_id=host.id, settings=settings, now=now, judgement=judgement))
        elif host.ray_node_id != node_id or host.device_status != judgement.status:
            database.transact(partial(_alive, host_id=host.id, settings=settings, node_id=node_id, now=now))


_HEARD_OF = select(Host).where(Host.heartbeat_at.is_not(None), Host.admin_state != AdminState.RETIRED).order_by(Host.id)


def _judge(host: Host, settings: Settings, *, in_ray: bool, now: datetime) -> Judgement:
    assert host.heartbeat_at is not None
    return judge(
        heartbeat_at=host.heartbeat_at,
        now=now,
        unreachable_after_s=settings.unreachable_after_s,
        in_ray=in_ray,
        problems=host.problems,
    )


def _alive(session: Session, host_id: int, settings: Settings, node_id: str | None, now: datetime) -> None:
    host = session.get_one(Host, host_id, with_for_update=True)
    host.ray_node_id = node_id
    judgement = _judge(host, settings, in_ray=node_id is not None, now=now)
    if judgement.status is not DeviceStatus.UNREACHABLE:
        observe(session, host, judgement.status, actor=ACTOR, reason=judgement.reason)


def _silent(session: Session, host_id: int, settings: Settings, now: datetime, judgement: Judgement) -> None:
    """`unreachable` at once; `lost` only when every lease's limit has passed with the margin."""
    leases = _lock_live(session, host_id)
    host = session.get_one(Host, host_id, with_for_update=True)
    # Read again under the lock: a heartbeat may have come in, and it renews leases only after it has said so here.
    if host.heartbeat_at is None or _judge(host, settings, in_ray=True, now=now).status is not DeviceStatus.UNREACHABLE:
        return
    if host.device_status in (DeviceStatus.ONLINE, DeviceStatus.DEGRADED):
        observe(session, host, DeviceStatus.UNREACHABLE, actor=ACTOR, reason=judgement.reason)
    lost = may_be_lost(
        heartbeat_at=host.heartbeat_at,
        now=now,
        unreachable_after_s=settings.unreachable_after_s,
        lost_margin_s=settings.lost_margin_s,
        last_run_until=max((_runs_until(lease) for lease in leases), default=None),
    )
    if not lost or host.device_status == DeviceStatus.UNKNOWN:
        return
    observe(session, host, DeviceStatus.LOST, actor=ACTOR, reason=f"{judgement.reason}, and every lease has run out")
    host.ray_node_id = None
    for lease in leases:
        if lease.state == AllocationState.RELEASING:
            continue  # it ends already, for a reason of its own
        request_end(session, lease, end_reason=EndReason.HOST_LOST, actor=ACTOR, reason=f"host {host.name} was lost")


def _lock_live(session: Session, host_id: int) -> Sequence[Allocation]:
    query = (
        select(Allocation)
        .where(holding_on(host_id))
        .order_by(Allocation.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return [lease for lease in session.scalars(query) if lease.state not in _NOT_HELD]


def _runs_until(lease: Allocation) -> datetime:
    if lease.run_until is not None:
        return lease.run_until
    # Not granted yet as far as we know: at most what a grant would allow, counted from the placement.
    return (lease.placed_at or lease.queued_at) + timedelta(seconds=lease.disconnect_s)
