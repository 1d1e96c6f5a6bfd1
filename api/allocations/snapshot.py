"""What the scheduling loop sees: hosts with what is free on them, the queue, idle placement groups, why they wait."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationDevice, PlacementGroup
from api.allocations.transitions import notify
from api.billing.prices import price_for
from api.machines.tables import Gpu, Host
from scheduler.money import MILLI_PER_GPU
from scheduler.ports import FreeDevice, HostView, IdleGroup, QueuedRequest, Snapshot, WaitReason
from scheduler.states import AdminState, AllocationState, DeviceStatus

QUEUE_WINDOW = 10_000
"""How many waiting requests a cycle looks at, the first in order."""

HOLDING = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)


def load_snapshot(session: Session, *, now: datetime) -> Snapshot:
    hosts = session.scalars(select(Host).where(Host.admin_state != AdminState.RETIRED).order_by(Host.id)).all()
    used = _used_capacity(session)
    devices = _devices(session, now)
    return Snapshot(
        hosts=[_view(host, used.get(host.id, (0, 0)), devices.get(host.id, [])) for host in hosts],
        queue=_queue(session),
        idle_groups=_idle_groups(session),
    )


def why_not_schedulable(host: Host) -> str | None:
    """Why a host takes no new work, in words that fit into a sentence; None if it does."""
    if host.admin_state != AdminState.AVAILABLE:
        return f"its operator has set it to {host.admin_state}"
    if host.device_status != DeviceStatus.ONLINE:
        return f"it is {host.device_status}"
    return None


def record_waits(session: Session, reasons: Mapping[int, WaitReason]) -> None:
    """Write the reasons that have changed, of requests that still wait."""
    rows = [{"id": key, "reason": asdict(reason)} for key, reason in sorted(reasons.items())]
    if not rows:
        return
    changed = session.execute(
        text(
            "update allocations a set wait_reason = r.reason"
            " from jsonb_to_recordset(cast(:rows as jsonb)) as r(id bigint, reason jsonb)"
            " where a.id = r.id and a.state = 'queued' and a.wait_reason is distinct from r.reason returning a.id"
        ),
        {"rows": json.dumps(rows)},
    ).first()
    if changed is not None:
        notify(session)


def _view(host: Host, used: tuple[int, int], devices: Sequence[FreeDevice]) -> HostView:
    why_not = why_not_schedulable(host)
    used_cpu_milli, used_memory_bytes = used
    return HostView(
        host_id=host.id,
        host_uid=str(host.uid),
        name=host.name,
        schedulable=why_not is None,
        why_not=why_not,
        cpu_milli=host.cpu_milli,
        memory_bytes=host.memory_bytes,
        free_cpu_milli=host.cpu_milli - used_cpu_milli,
        free_memory_bytes=host.memory_bytes - used_memory_bytes,
        devices=tuple(devices),
    )


def _used_capacity(session: Session) -> dict[int, tuple[int, int]]:
    query = (
        select(Allocation.host_id, func.sum(Allocation.cpu_milli), func.sum(Allocation.memory_bytes))
        .where(Allocation.state.in_(HOLDING), Allocation.host_id.is_not(None))
        .group_by(Allocation.host_id)
    )
    rows = session.execute(query)
    return {host_id: (int(cpu), int(memory)) for host_id, cpu, memory in rows if host_id is not None}


def _devices(session: Session, now: datetime) -> dict[int, list[FreeDevice]]:
    """Healthy devices of models that have a price, by host, in the order of their index."""
    held = (
        select(
            AllocationDevice.gpu_id, func.sum(AllocationDevice.milli_to - AllocationDevice.milli_from).label("milli")
        )
        .where(func.upper_inf(AllocationDevice.period))
        .group_by(AllocationDevice.gpu_id)
        .subquery()
    )
    query = (
        select(Gpu, func.coalesce(held.c.milli, 0))
        .outerjoin(held, held.c.gpu_id == Gpu.id)
        .where(Gpu.present, Gpu.healthy)
        .order_by(Gpu.host_id, Gpu.index)
    )
    priced: dict[str, bool] = {}
    by_host: dict[int, list[FreeDevice]] = {}
    for gpu, held_milli in session.execute(query):
        if gpu.model not in priced:
            priced[gpu.model] = price_for(session, gpu.model, at=now) is not None
        if priced[gpu.model]:
            device = FreeDevice(gpu.id, gpu.uuid, gpu.model, gpu.memory_bytes, MILLI_PER_GPU - int(held_milli))
            by_host.setdefault(gpu.host_id, []).append(device)
    return by_host


def _queue(session: Session) -> list[QueuedRequest]:
    query = (
        select(Allocation)
        .where(Allocation.state == AllocationState.QUEUED)
        .order_by(Allocation.priority.desc(), Allocation.queued_at, Allocation.id)
        .limit(QUEUE_WINDOW)
    )
    return [
        QueuedRequest(
            allocation_id=row.id,
            allocation_uid=str(row.uid),
            customer_id=row.customer_id,
            priority=row.priority,
            queued_at=row.queued_at,
            gpus=row.gpus,
            gpu_model=row.gpu_model,
            cpu_milli=row.cpu_milli,
            memory_bytes=row.memory_bytes,
            bound_host_id=row.bound_host_id,
            not_before=row.not_before,
        )
        for row in session.scalars(query)
    ]


def _idle_groups(session: Session) -> list[IdleGroup]:
    query = (
        select(PlacementGroup)
        .where(PlacementGroup.state == "reserved", PlacementGroup.allocation_id.is_(None))
        .order_by(PlacementGroup.idle_since, PlacementGroup.id)
    )
    return [
        IdleGroup(row.name, row.host_id, frozenset(row.gpu_ids), row.cpu_milli, row.memory_bytes)
        for row in session.scalars(query)
    ]
