"""Placement groups in the state of record: named before they exist, handed on when idle, dropped when in the way."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, PlacementGroup
from api.machines.tables import Host
from scheduler.states import DeviceStatus

MAX_DROPS = 1000
"""How many groups are given out to be dropped at once."""


class GroupState(StrEnum):
    INTENDED = "intended"  # -> reserved, removing
    RESERVED = "reserved"  # -> removing; without an owner it is idle
    REMOVING = "removing"  # -> removed
    REMOVED = "removed"  # terminal


def take(session: Session, allocation: Allocation, host: Host, gpu_ids: Sequence[int]) -> PlacementGroup:
    """The group of an allocation that is being placed: an idle one of exactly its shape, else a new one.

    Idle groups that hold in Ray what a new one needs are to be dropped from then on. The caller holds the placement
    lock, and has moved the allocation to its new generation.
    """
    shape = sorted(gpu_ids)
    idle = list(session.scalars(_idle_on(host.id)))
    for group in idle:
        if (group.gpu_ids, group.cpu_milli, group.memory_bytes) == (
            shape,
            allocation.cpu_milli,
            allocation.memory_bytes,
        ):
            group.allocation_id = allocation.id
            group.idle_since = None
            return group
    _make_room(session, allocation, host, idle, set(shape))
    group = PlacementGroup(
        name=f"rg-{allocation.uid}-{allocation.generation}",
        host_id=host.id,
        allocation_id=allocation.id,
        state=GroupState.INTENDED,
        gpu_ids=shape,
        cpu_milli=allocation.cpu_milli,
        memory_bytes=allocation.memory_bytes,
    )
    session.add(group)
    session.flush()
    return group


def owned_by(session: Session, allocation: Allocation) -> PlacementGroup | None:
    query = select(PlacementGroup).where(PlacementGroup.allocation_id == allocation.id)
    return session.scalars(query.where(PlacementGroup.state != GroupState.REMOVED)).one_or_none()


def mark_reserved(session: Session, allocation: Allocation) -> None:
    """The group is known to exist in Ray."""
    group = owned_by(session, allocation)
    if group is not None:
        group.state = GroupState.RESERVED


def abandon(session: Session, allocation: Allocation) -> None:
    """Nobody wants the allocation's group any more; it may exist in Ray or not."""
    group = owned_by(session, allocation)
    if group is not None:
        _discard(group)


def hand_back(session: Session, allocation: Allocation, *, now: datetime) -> None:
    """At release: a group that is sure to be whole stays idle for the next of its shape, any other is dropped."""
    group = owned_by(session, allocation)
    if group is None:
        return
    host = session.get_one(Host, group.host_id)
    if group.state != GroupState.RESERVED or host.device_status != DeviceStatus.ONLINE:
        _discard(group)
        return
    group.allocation_id = None
    group.idle_since = now


def in_the_way(session: Session, group: PlacementGroup) -> tuple[str, ...]:
    """Names of the groups that must be gone before this one can be reserved."""
    if group.state != GroupState.INTENDED:
        return ()
    query = select(PlacementGroup.name).where(
        PlacementGroup.host_id == group.host_id, PlacementGroup.state == GroupState.REMOVING
    )
    return tuple(session.scalars(query.order_by(PlacementGroup.id)))


def to_drop(session: Session, *, now: datetime, idle_s: float) -> list[str]:
    """Give up groups that were idle for `idle_s` seconds, and name all that nobody wants."""
    overdue = update(PlacementGroup).where(
        PlacementGroup.state == GroupState.RESERVED,
        PlacementGroup.allocation_id.is_(None),
        PlacementGroup.idle_since <= now - timedelta(seconds=idle_s),
    )
    session.execute(overdue.values(state=GroupState.REMOVING, idle_since=None))
    query = select(PlacementGroup.name).where(PlacementGroup.state == GroupState.REMOVING)
    return list(session.scalars(query.order_by(PlacementGroup.id).limit(MAX_DROPS)))


def dropped(session: Session, name: str) -> None:
    done = update(PlacementGroup).where(PlacementGroup.name == name, PlacementGroup.state == GroupState.REMOVING)
    session.execute(done.values(state=GroupState.REMOVED, removed_at=func.now()))


def _idle_on(host_id: int) -> Select[PlacementGroup]:
    return (
        select(PlacementGroup)
        .where(
            PlacementGroup.host_id == host_id,
            PlacementGroup.state == GroupState.RESERVED,
            PlacementGroup.allocation_id.is_(None),
        )
        .order_by(PlacementGroup.idle_since, PlacementGroup.id)
        .with_for_update()
    )


def _make_room(
    session: Session, allocation: Allocation, host: Host, idle: Sequence[PlacementGroup], gpu_ids: set[int]
) -> None:
    """Discard idle groups on the wanted devices, then the longest idle ones until CPU and memory suffice in Ray."""
    owned = select(func.sum(PlacementGroup.cpu_milli), func.sum(PlacementGroup.memory_bytes)).where(
        PlacementGroup.host_id == host.id,
        PlacementGroup.allocation_id.is_not(None),
        PlacementGroup.state != GroupState.REMOVED,
    )
    cpu_milli, memory_bytes = (int(figure or 0) for figure in session.execute(owned).one())
    kept = [group for group in idle if not gpu_ids & set(group.gpu_ids)]
    cpu_milli += allocation.cpu_milli + sum(group.cpu_milli for group in kept)
    memory_bytes += allocation.memory_bytes + sum(group.memory_bytes for group in kept)
    while kept and (cpu_milli > host.cpu_milli or memory_bytes > host.memory_bytes):
        oldest = kept.pop(0)
        cpu_milli -= oldest.cpu_milli
        memory_bytes -= oldest.memory_bytes
    for group in idle:
        if group not in kept:
            _discard(group)
    session.flush()


def _discard(group: PlacementGroup) -> None:
    group.state = GroupState.REMOVING
    group.allocation_id = None
    group.idle_since = None
