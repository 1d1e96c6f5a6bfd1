"""The loop's store in memory, for the simulator and the property tests: the same rules as PostgreSQL's, no I/O."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from scheduler.host_protocol import DeviceShare, Lease
from scheduler.ports import (
    Admitted,
    Changes,
    Dropped,
    Ended,
    Eviction,
    HostShare,
    LostLeadershipError,
    Outcome,
    Placed,
    Placement,
    PlacementFailed,
    Releasing,
    WaitReason,
)
from scheduler.simulated_database import Dirty, SimulatedAllocation, SimulatedDatabase, SimulatedGroup
from scheduler.states import AllocationState, DeviceStatus, EndReason
from scheduler.views import IdleGroup, Part

IDLE_GROUP_LIFE = timedelta(seconds=30)
GRACE_S = 10
_HOLDING = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)


class MemoryStore:
    """Implements `scheduler.ports.Store` for one leader: the next one takes over from it and has a store of its own.

    `idle_life`: for how long a placement group waits for the next allocation of its shape.
    """

    def __init__(
        self,
        database: SimulatedDatabase,
        clock: Callable[[], datetime],
        *,
        idle_life: timedelta = IDLE_GROUP_LIFE,
    ) -> None:
        self.database = database
        self.clock = clock
        self.idle_life = idle_life
        database.epoch += 1
        self._epoch = database.epoch
        self._first = True

    def changes(self, *, complete: bool = False) -> Changes:
        self._check_epoch()
        database = self.database
        dirty, database.dirty = database.dirty, Dirty()
        if complete or self._first:
            self._first = False
            dirty = Dirty(set(database.hosts), set(database.allocations), set(database.customers), True, True, True)
            complete = True
        allocations = [database.allocations[allocation_id] for allocation_id in sorted(dirty.allocations)]
        return Changes(
            complete=complete,
            hosts=[database.hosts[host_id].seen for host_id in sorted(dirty.hosts)],
            queued=[a.request for a in allocations if a.state is AllocationState.QUEUED],
            held=[a.held for a in allocations if a.state in _HOLDING],
            gone=[a.request.allocation_id for a in allocations if a.state is AllocationState.RELEASED and not complete],
            customers=[database.customers[customer_id] for customer_id in sorted(dirty.customers)],
            groups=database.groups if dirty.groups else None,
            reservations=database.reservations if dirty.reservations else None,
            idle_groups=self._idle_groups() if dirty.idle_groups else None,
        )

    def admit(self, placements: Sequence[Placement]) -> Sequence[Admitted | WaitReason]:
        self._check_epoch()
        return [self._admit(placement) for placement in placements]

    def evict(self, evictions: Sequence[Eviction]) -> Sequence[bool]:
        self._check_epoch()
        return [self._evict(eviction) for eviction in evictions]

    def record_waits(self, reasons: Mapping[int, WaitReason]) -> None:
        self._check_epoch()
        for allocation_id, reason in reasons.items():
            self.database.allocations[allocation_id].wait = reason

    def record(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        self._check_epoch()
        return [self._record(outcome) for outcome in outcomes]

    def placing(self, allocation_ids: Sequence[int]) -> Sequence[Admitted]:
        self._check_epoch()
        return [self._admitted(allocation) for allocation in self._in(AllocationState.PLACING, allocation_ids)]

    def releasing(self, allocation_ids: Sequence[int]) -> Sequence[Releasing]:
        self._check_epoch()
        return [self._releasing(allocation) for allocation in self._in(AllocationState.RELEASING, allocation_ids)]

    def groups_to_drop(self) -> Sequence[str]:
        self._check_epoch()
        spare = self.database.spare_on(self.database.hosts)
        for group in spare:
            if group.idle_since is not None and group.idle_since + self.idle_life <= self.clock():
                self.database.make_spare(group, idle_since=None)
        return [group.name for group in spare if group.state == "removing"]

    def _check_epoch(self) -> None:
        if self.database.epoch != self._epoch:
            raise LostLeadershipError(f"epoch {self.database.epoch} has begun, this is {self._epoch}")

    def _in(self, state: AllocationState, allocation_ids: Sequence[int]) -> list[SimulatedAllocation]:
        found = [self.database.allocations[allocation_id] for allocation_id in allocation_ids]
        return [allocation for allocation in found if allocation.state is state]

    def _idle_groups(self) -> list[IdleGroup]:
        return [group.view for group in self.database.spare_on(self.database.hosts) if group.idle]

    def _admit(self, placement: Placement) -> Admitted | WaitReason:
        database = self.database
        allocation = database.allocations[placement.allocation_id]
        request = allocation.request
        hosts = [database.hosts[part.host_id] for part in placement.parts]
        if allocation.state is not AllocationState.QUEUED or any(h.status is not DeviceStatus.ONLINE for h in hosts):
            return WaitReason("no_capacity", "something changed", 1)
        short = database.shortage(request, placement.parts)
        if short is not None:
            return WaitReason("quota", short, 1)
        database.occupy(allocation, tuple(placement.parts))
        allocation.move(AllocationState.PLACING)
        allocation.generation += 1
        allocation.placed_at = self.clock()
        allocation.wait = None
        allocation.group_name = self._take_group(allocation).name
        database.dirty.allocations.add(request.allocation_id)
        return self._admitted(allocation)

    def _evict(self, eviction: Eviction) -> bool:
        allocation = self.database.allocations[eviction.allocation_id]
        if allocation.state is not AllocationState.ACTIVE or allocation.generation != eviction.generation:
            return False
        self.database.request_end(eviction.allocation_id, EndReason.PREEMPTED)
        return True

    def _record(self, outcome: Outcome) -> bool:
        match outcome:
            case Placed():
                return self._activate(outcome)
            case PlacementFailed():
                return self._unplace(outcome)
            case Ended():
                return self._release(outcome)
            case Dropped():
                return self._dropped(outcome)

    def _current(self, outcome: Placed | PlacementFailed | Ended, state: AllocationState) -> SimulatedAllocation | None:
        """The allocation, if it is in that state and of that generation: else somebody else has moved it on."""
        allocation = self.database.allocations[outcome.allocation_id]
        if allocation.state is not state or allocation.generation != outcome.generation:
            return None
        self.database.dirty.allocations.add(outcome.allocation_id)
        return allocation

    def _activate(self, placed: Placed) -> bool:
        allocation = self._current(placed, AllocationState.PLACING)
        if allocation is None:
            return False
        allocation.move(AllocationState.ACTIVE)
        self._group_of(allocation).state = "reserved"
        return True

    def _unplace(self, failed: PlacementFailed) -> bool:
        allocation = self._current(failed, AllocationState.PLACING)
        if allocation is None:
            return False
        allocation.move(AllocationState.QUEUED)
        allocation.request = replace(allocation.request, not_before=failed.retry_at)
        self.database.make_spare(self._group_of(allocation), idle_since=None)
        self.database.vacate(allocation)
        return True

    def _release(self, ended: Ended) -> bool:
        allocation = self._current(ended, AllocationState.RELEASING)
        if allocation is None:
            return False
        group = self._group_of(allocation)
        online = all(self.database.hosts[host].status is DeviceStatus.ONLINE for host in group.host_ids)
        kept = group.state == "reserved" and online and group.may_be_handed_on and bool(self.idle_life)
        self.database.make_spare(group, idle_since=self.clock() if kept else None)
        self.database.vacate(allocation)
        allocation.move(AllocationState.RELEASED)
        self.database.released.append(ended.allocation_id)
        return True

    def _dropped(self, dropped: Dropped) -> bool:
        group = self.database.placement_groups.get(dropped.group_name)
        if group is None or group.state != "removing":
            return False
        self.database.take_spare(group)
        del self.database.placement_groups[dropped.group_name]
        return True

    def _group_of(self, allocation: SimulatedAllocation) -> SimulatedGroup:
        assert allocation.group_name is not None
        return self.database.placement_groups[allocation.group_name]

    def _take_group(self, allocation: SimulatedAllocation) -> SimulatedGroup:
        """An idle group of exactly its shape, else a new one; idle ones that are in the way of that are discarded."""
        request, shape = allocation.request, allocation.request.demand.shape
        new = SimulatedGroup(
            name=f"rg-{request.allocation_uid}-{allocation.generation}",
            parts=allocation.parts,
            cpu_milli=shape.cpu_milli,
            memory_bytes=shape.memory_bytes,
            owner=request.allocation_id,
        )
        idle = [group for group in self.database.spare_on(new.host_ids) if group.idle]
        for group in idle:
            if new.may_be_handed_on and group.view == replace(new.view, name=group.name):
                group.owner, group.idle_since = request.allocation_id, None
                self.database.take_spare(group)
                return group
        self._make_room(new, idle)
        self.database.placement_groups[new.name] = new
        return new

    def _make_room(self, new: SimulatedGroup, idle: Sequence[SimulatedGroup]) -> None:
        for group in idle:
            if group.gpu_ids & new.gpu_ids:
                self.database.make_spare(group, idle_since=None)
        for host_id in new.host_ids:
            host = self.database.hosts[host_id]
            kept = [group for group in idle if group.idle and host_id in group.host_ids]
            # The new one is among those in use already.
            cpu_milli = host.used_cpu_milli + sum(group.cpu_milli for group in kept)
            memory_bytes = host.used_memory_bytes + sum(group.memory_bytes for group in kept)
            while kept and (cpu_milli > host.view.cpu_milli or memory_bytes > host.view.memory_bytes):
                oldest = kept.pop(0)
                self.database.make_spare(oldest, idle_since=None)
                cpu_milli -= oldest.cpu_milli
                memory_bytes -= oldest.memory_bytes

    def _admitted(self, allocation: SimulatedAllocation) -> Admitted:
        group = self._group_of(allocation)
        shares = tuple(self._share(allocation, part) for part in allocation.parts)
        spare = self.database.spare_on(group.host_ids) if group.state == "intended" else []
        return Admitted(
            allocation.request.allocation_id,
            allocation.generation,
            group.name,
            shares,
            tuple(_lease(allocation, share) for share in shares),
            tuple(other.name for other in spare if other.state == "removing"),
        )

    def _share(self, allocation: SimulatedAllocation, part: Part) -> HostShare:
        host, shape = self.database.hosts[part.host_id].view, allocation.request.demand.shape
        devices = tuple(DeviceShare(self.database.devices[gpu_id][1], milli) for gpu_id, milli in part.devices)
        return HostShare(host.host_uid, devices, shape.cpu_milli, shape.memory_bytes)

    def _releasing(self, allocation: SimulatedAllocation) -> Releasing:
        hosts = [self.database.hosts[part.host_id] for part in allocation.parts]
        return Releasing(
            allocation_id=allocation.request.allocation_id,
            allocation_uid=allocation.request.allocation_uid,
            generation=allocation.generation,
            host_uids=tuple(host.view.host_uid for host in hosts if host.status is not DeviceStatus.LOST),
            grace_s=GRACE_S,
        )


def _lease(allocation: SimulatedAllocation, share: HostShare) -> Lease:
    return Lease(
        allocation_uid=allocation.request.allocation_uid,
        generation=allocation.generation,
        customer_uid=str(allocation.request.customer_id),
        devices=share.devices,
        cpu_milli=share.cpu_milli,
        memory_bytes=share.memory_bytes,
        disk_bytes=0,
        pids=1,
        run_until_ms=0,
        image=allocation.request.demand.image,
        container_name="",
    )
