"""The loop's store in memory, for the simulator and the property tests: the same rules as PostgreSQL's, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scheduler.host_protocol import DeviceShare, Lease, LeaseEnd
from scheduler.loop import Clock
from scheduler.money import MILLI_PER_GPU
from scheduler.ports import (
    Admitted,
    FreeDevice,
    HostShare,
    HostView,
    IdleGroup,
    Placement,
    QueuedRequest,
    Releasing,
    Snapshot,
    WaitReason,
)
from scheduler.states import ALLOCATION, AllocationState, DeviceStatus, EndReason, check_transition

IDLE_GROUP_LIFE = timedelta(seconds=30)
_HOLDING = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)


@dataclass(slots=True)
class SimulatedHost:
    host_id: int
    uid: str
    cpu_milli: int
    memory_bytes: int
    devices: tuple[FreeDevice, ...]
    status: DeviceStatus = DeviceStatus.ONLINE


@dataclass(slots=True)
class SimulatedAllocation:
    request: QueuedRequest
    state: AllocationState = AllocationState.QUEUED
    generation: int = 0
    not_before: datetime | None = None
    host_id: int | None = None
    gpu_ids: tuple[int, ...] = ()
    group_name: str | None = None
    end_reason: EndReason | None = None
    wait: WaitReason | None = None

    def move(self, target: AllocationState) -> None:
        check_transition(ALLOCATION, current=self.state, target=target)
        self.state = target


@dataclass(slots=True)
class SimulatedGroup:
    name: str
    host_id: int
    gpu_ids: frozenset[int]
    cpu_milli: int
    memory_bytes: int
    owner: int | None
    state: str = "intended"
    idle_since: datetime | None = None

    @property
    def idle(self) -> bool:
        return self.state == "reserved" and self.owner is None

    def discard(self) -> None:
        self.state, self.owner, self.idle_since = "removing", None, None


@dataclass(slots=True)
class MemoryStore:
    """Implements `scheduler.ports.Store`. `quotas` are GPUs by customer; a customer without one has no limit."""

    clock: Clock
    hosts: dict[int, SimulatedHost] = field(default_factory=dict)
    allocations: dict[int, SimulatedAllocation] = field(default_factory=dict)
    groups: dict[str, SimulatedGroup] = field(default_factory=dict)
    quotas: dict[int, int] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)  # GPU id -> allocation id

    def submit(self, request: QueuedRequest) -> None:
        self.allocations[request.allocation_id] = SimulatedAllocation(request)

    def request_end(self, allocation_id: int, end_reason: EndReason) -> None:
        allocation = self.allocations[allocation_id]
        if allocation.state in (AllocationState.RELEASING, AllocationState.RELEASED):
            return
        queued = allocation.state is AllocationState.QUEUED
        allocation.move(AllocationState.RELEASED if queued else AllocationState.RELEASING)
        allocation.end_reason = end_reason

    def snapshot(self) -> Snapshot:
        queue = sorted(self._in(AllocationState.QUEUED), key=lambda a: (-a.request.priority, a.request.queued_at))
        return Snapshot(
            hosts=[self._view(host) for host in self.hosts.values()],
            queue=[_with_back_off(allocation) for allocation in queue],
            idle_groups=[
                IdleGroup(group.name, group.host_id, group.gpu_ids, group.cpu_milli, group.memory_bytes)
                for group in self.groups.values()
                if group.idle
            ],
        )

    def admit(self, placement: Placement) -> Admitted | WaitReason:
        allocation = self.allocations[placement.allocation_id]
        request, host = allocation.request, self.hosts[placement.host_id]
        if allocation.state is not AllocationState.QUEUED or host.status is not DeviceStatus.ONLINE:
            return WaitReason("no_capacity", "something changed", 1)
        held = sum(a.request.gpus for a in self._in(*_HOLDING) if a.request.customer_id == request.customer_id)
        limit = self.quotas.get(request.customer_id)
        if limit is not None and held + request.gpus > limit:
            return WaitReason("quota", f"{held} of {limit} GPUs are in use", 1)
        allocation.move(AllocationState.PLACING)
        allocation.generation += 1
        allocation.host_id, allocation.gpu_ids = placement.host_id, placement.gpu_ids
        for gpu_id in placement.gpu_ids:
            if gpu_id in self.owners:
                raise AssertionError(f"device {gpu_id} has an owner")
            self.owners[gpu_id] = request.allocation_id
        group = self._take_group(allocation, host)
        allocation.group_name = group.name
        return self._admitted(allocation, group)

    def record_waits(self, reasons: Mapping[int, WaitReason]) -> None:
        for allocation_id, reason in reasons.items():
            self.allocations[allocation_id].wait = reason

    def activate(self, allocation_id: int, *, generation: int) -> bool:
        allocation = self.allocations[allocation_id]
        if allocation.state is not AllocationState.PLACING or allocation.generation != generation:
            return False
        allocation.move(AllocationState.ACTIVE)
        assert allocation.group_name is not None
        self.groups[allocation.group_name].state = "reserved"
        return True

    def unplace(self, allocation_id: int, *, generation: int, reason: str, retry_at: datetime) -> bool:
        allocation = self.allocations[allocation_id]
        if allocation.state is not AllocationState.PLACING or allocation.generation != generation:
            return False
        allocation.move(AllocationState.QUEUED)
        allocation.not_before = retry_at
        assert allocation.group_name is not None
        self.groups[allocation.group_name].discard()
        self._vacate(allocation)
        return True

    def unfinished_placements(self) -> Sequence[Admitted]:
        placing = [a for a in self._in(AllocationState.PLACING) if a.group_name is not None]
        return [self._admitted(a, self.groups[a.group_name]) for a in placing if a.group_name is not None]

    def releasing(self) -> Sequence[Releasing]:
        return [self._releasing(allocation) for allocation in self._in(AllocationState.RELEASING)]

    def released(self, allocation_id: int, *, generation: int, ended: LeaseEnd | None) -> None:
        allocation = self.allocations[allocation_id]
        if allocation.state is not AllocationState.RELEASING or allocation.generation != generation:
            return
        assert allocation.host_id is not None and allocation.group_name is not None
        group = self.groups[allocation.group_name]
        if group.state == "reserved" and self.hosts[allocation.host_id].status is DeviceStatus.ONLINE:
            group.owner, group.idle_since = None, self.clock()
        else:
            group.discard()
        self._vacate(allocation)
        allocation.move(AllocationState.RELEASED)

    def groups_to_drop(self) -> Sequence[str]:
        for group in self.groups.values():
            if group.idle_since is not None and group.idle_since + IDLE_GROUP_LIFE <= self.clock():
                group.discard()
        return [group.name for group in self.groups.values() if group.state == "removing"]

    def group_dropped(self, name: str) -> None:
        if self.groups[name].state == "removing":
            self.groups[name].state = "removed"

    def _in(self, *states: AllocationState) -> list[SimulatedAllocation]:
        return [allocation for allocation in self.allocations.values() if allocation.state in states]

    def _view(self, host: SimulatedHost) -> HostView:
        here = [a.request for a in self._in(*_HOLDING) if a.host_id == host.host_id]
        online = host.status is DeviceStatus.ONLINE
        return HostView(
            host_id=host.host_id,
            host_uid=host.uid,
            name=host.uid,
            schedulable=online,
            why_not=None if online else f"it is {host.status}",
            cpu_milli=host.cpu_milli,
            memory_bytes=host.memory_bytes,
            free_cpu_milli=host.cpu_milli - sum(request.cpu_milli for request in here),
            free_memory_bytes=host.memory_bytes - sum(request.memory_bytes for request in here),
            devices=tuple(_device(device, taken=device.gpu_id in self.owners) for device in host.devices),
        )

    def _take_group(self, allocation: SimulatedAllocation, host: SimulatedHost) -> SimulatedGroup:
        request, gpu_ids = allocation.request, frozenset(allocation.gpu_ids)
        idle = [group for group in self.groups.values() if group.idle and group.host_id == host.host_id]
        shape = (gpu_ids, request.cpu_milli, request.memory_bytes)
        for group in idle:
            if (group.gpu_ids, group.cpu_milli, group.memory_bytes) == shape:
                group.owner, group.idle_since = request.allocation_id, None
                return group
        used = [group for group in self.groups.values() if group.host_id == host.host_id and group.owner is not None]
        for group in idle:
            if group.gpu_ids & gpu_ids:
                group.discard()
        kept = [group for group in idle if group.idle]
        while kept and not _fits(host, request, [*used, *kept]):
            kept.pop(0).discard()
        name = f"rg-{request.allocation_uid}-{allocation.generation}"
        self.groups[name] = SimulatedGroup(name, host.host_id, *shape, owner=request.allocation_id)
        return self.groups[name]

    def _admitted(self, allocation: SimulatedAllocation, group: SimulatedGroup) -> Admitted:
        request, host = allocation.request, self.hosts[group.host_id]
        uuids = {device.gpu_id: device.uuid for device in host.devices}
        shares = tuple(DeviceShare(uuids[gpu_id], MILLI_PER_GPU) for gpu_id in allocation.gpu_ids)
        lease = Lease(
            allocation_uid=request.allocation_uid,
            generation=allocation.generation,
            customer_uid=str(request.customer_id),
            devices=shares,
            cpu_milli=request.cpu_milli,
            memory_bytes=request.memory_bytes,
            disk_bytes=0,
            pids=1,
            run_until_ms=0,
            image="",
            container_name="",
        )
        in_the_way = [g.name for g in self.groups.values() if g.state == "removing" and g.host_id == host.host_id]
        return Admitted(
            request.allocation_id,
            lease,
            group.name,
            (HostShare(host.uid, shares, request.cpu_milli, request.memory_bytes),),
            tuple(in_the_way) if group.state == "intended" else (),
        )

    def _releasing(self, allocation: SimulatedAllocation) -> Releasing:
        assert allocation.host_id is not None
        host = self.hosts[allocation.host_id]
        return Releasing(
            allocation_id=allocation.request.allocation_id,
            allocation_uid=allocation.request.allocation_uid,
            generation=allocation.generation,
            group_name=allocation.group_name,
            host_uid=host.uid,
            host_lost=host.status is DeviceStatus.LOST,
            grace_s=10,
        )

    def _vacate(self, allocation: SimulatedAllocation) -> None:
        for gpu_id in allocation.gpu_ids:
            del self.owners[gpu_id]
        allocation.host_id, allocation.gpu_ids, allocation.group_name = None, (), None


def _with_back_off(allocation: SimulatedAllocation) -> QueuedRequest:
    request = allocation.request
    return QueuedRequest(
        request.allocation_id,
        request.allocation_uid,
        request.customer_id,
        request.priority,
        request.queued_at,
        request.gpus,
        request.gpu_model,
        request.cpu_milli,
        request.memory_bytes,
        request.bound_host_id,
        allocation.not_before,
    )


def _device(device: FreeDevice, *, taken: bool) -> FreeDevice:
    free_milli = 0 if taken else MILLI_PER_GPU
    return FreeDevice(device.gpu_id, device.uuid, device.model, device.memory_bytes, free_milli)


def _fits(host: SimulatedHost, request: QueuedRequest, beside: Sequence[SimulatedGroup]) -> bool:
    cpu_milli = request.cpu_milli + sum(group.cpu_milli for group in beside)
    memory_bytes = request.memory_bytes + sum(group.memory_bytes for group in beside)
    return cpu_milli <= host.cpu_milli and memory_bytes <= host.memory_bytes
