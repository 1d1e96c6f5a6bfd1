"""The state of record in memory: what `MemoryStore` keeps, and what users and hosts do to it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from scheduler.money import MILLI_PER_GPU
from scheduler.ports import WaitReason
from scheduler.quota import NOTHING, Resources, Scope, lack, lease_lack, model_lack
from scheduler.states import ALLOCATION, REACHABLE, AllocationState, DeviceStatus, EndReason, check_transition
from scheduler.views import CapacityGroup, CustomerView, Held, HostView, IdleGroup, Part, Request, Reservation


@dataclass(slots=True)
class SimulatedHost:
    """`view` is as of when it is online."""

    view: HostView
    status: DeviceStatus = DeviceStatus.ONLINE
    used_cpu_milli: int = 0
    used_memory_bytes: int = 0

    @property
    def seen(self) -> HostView:
        if self.status is DeviceStatus.ONLINE:
            return self.view
        return replace(self.view, why_not=f"it is {self.status}", reachable=self.status in REACHABLE)


@dataclass(slots=True)
class SimulatedAllocation:
    request: Request
    state: AllocationState = AllocationState.QUEUED
    generation: int = 0
    parts: tuple[Part, ...] = ()
    group_name: str | None = None
    placed_at: datetime | None = None
    end_reason: EndReason | None = None
    wait: WaitReason | None = None

    def move(self, target: AllocationState) -> None:
        check_transition(ALLOCATION, current=self.state, target=target)
        self.state = target

    @property
    def held(self) -> Held:
        assert self.placed_at is not None
        return Held(self.request, self.state, self.generation, self.parts, self.placed_at)


@dataclass(slots=True)
class SimulatedGroup:
    """A placement group in Ray, as it is recorded. Only one on a single host, of whole devices, is handed on."""

    name: str
    parts: tuple[Part, ...]
    cpu_milli: int  # on each host
    memory_bytes: int
    owner: int | None
    state: str = "intended"  # -> reserved -> removing; then it is forgotten
    idle_since: datetime | None = None

    @property
    def idle(self) -> bool:
        return self.state == "reserved" and self.owner is None

    @property
    def may_be_handed_on(self) -> bool:
        return len(self.parts) == 1 and all(milli == MILLI_PER_GPU for _, milli in self.parts[0].devices)

    @property
    def host_ids(self) -> frozenset[int]:
        return frozenset(part.host_id for part in self.parts)

    @property
    def gpu_ids(self) -> frozenset[int]:
        return frozenset(gpu_id for part in self.parts for gpu_id, _ in part.devices)

    @property
    def view(self) -> IdleGroup:
        return IdleGroup(self.name, self.parts[0].host_id, self.gpu_ids, self.cpu_milli, self.memory_bytes)


@dataclass(slots=True)
class Dirty:
    """What the leader has yet to hear of: ids, and whether the lists that are told as a whole have changed."""

    hosts: set[int] = field(default_factory=set)
    allocations: set[int] = field(default_factory=set)
    customers: set[int] = field(default_factory=set)
    groups: bool = False
    reservations: bool = False
    idle_groups: bool = False


@dataclass(slots=True)
class SimulatedDatabase:
    """Everything that outlives a leader. `owners` has the thousandths of each device by allocation id; `spare` the
    placement groups without an owner, by host and name.

    The methods are what the platform's other parts do; the loop's own are in `MemoryStore`.
    """

    hosts: dict[int, SimulatedHost] = field(default_factory=dict)
    allocations: dict[int, SimulatedAllocation] = field(default_factory=dict)
    placement_groups: dict[str, SimulatedGroup] = field(default_factory=dict)
    customers: dict[int, CustomerView] = field(default_factory=dict)
    groups: tuple[CapacityGroup, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    devices: dict[int, tuple[int, str]] = field(default_factory=dict)  # host id and UUID, by GPU id
    models: dict[int, str] = field(default_factory=dict)  # by GPU id
    owners: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    spare: dict[int, dict[str, SimulatedGroup]] = field(default_factory=lambda: defaultdict(dict))
    held: dict[Scope, Resources] = field(default_factory=lambda: defaultdict(lambda: NOTHING))
    held_gpus: dict[tuple[Scope, str], int] = field(default_factory=lambda: defaultdict(int))  # by exact model
    epoch: int = 0
    dirty: Dirty = field(default_factory=Dirty)
    released: list[int] = field(default_factory=list)  # ids, in order, for whoever waits for ends to take away

    def add_host(self, view: HostView) -> None:
        self.hosts[view.host_id] = SimulatedHost(view)
        self.devices.update({device.gpu_id: (view.host_id, device.uuid) for device in view.devices})
        self.models.update({device.gpu_id: device.model for device in view.devices})
        self.dirty.hosts.add(view.host_id)

    def set_status(self, host_id: int, status: DeviceStatus) -> None:
        self.hosts[host_id].status = status
        self.dirty.hosts.add(host_id)

    def add_customer(self, customer: CustomerView) -> None:
        self.customers[customer.customer_id] = customer
        self.dirty.customers.add(customer.customer_id)

    def set_groups(self, groups: Sequence[CapacityGroup]) -> None:
        self.groups, self.dirty.groups = tuple(groups), True

    def set_reservations(self, reservations: Sequence[Reservation]) -> None:
        self.reservations, self.dirty.reservations = tuple(reservations), True

    def submit(self, request: Request) -> None:
        if request.customer_id not in self.customers:
            self.add_customer(CustomerView(request.customer_id))
        self.allocations[request.allocation_id] = SimulatedAllocation(request)
        self.dirty.allocations.add(request.allocation_id)

    def request_end(self, allocation_id: int, end_reason: EndReason) -> None:
        allocation = self.allocations[allocation_id]
        if allocation.state in (AllocationState.RELEASING, AllocationState.RELEASED):
            return
        queued = allocation.state is AllocationState.QUEUED
        allocation.move(AllocationState.RELEASED if queued else AllocationState.RELEASING)
        allocation.end_reason = end_reason
        self.dirty.allocations.add(allocation_id)
        if queued:
            self.released.append(allocation_id)

    def shortage(self, request: Request, parts: Sequence[Part]) -> str | None:
        """Which quota stands against placing it there, in words; None if none does."""
        for scope, limits in self.customers[request.customer_id].limits_on(request):
            asked = request.resources
            gpus = {model: count for (whose, model), count in self.held_gpus.items() if whose == scope}
            found = (
                lack(limits, held=self.held[scope], asked=asked, scope=scope)
                or lease_lack(limits, request.limit_s, scope=scope)
                or model_lack(limits, self._model(parts), held=gpus, gpus=asked.gpus, scope=scope)
            )
            if found is not None:
                return found.sentence
        return None

    def _model(self, parts: Sequence[Part]) -> str:
        """Of its devices, if it has any."""
        return next((self.models[gpu_id] for part in parts for gpu_id, _ in part.devices), "")

    def _count(self, allocation: SimulatedAllocation, sign: int) -> None:
        asked, model = allocation.request.resources.times(sign), self._model(allocation.parts)
        for scope in allocation.request.path:
            self.held[scope] += asked
            self.held_gpus[scope, model] += asked.gpus

    def occupy(self, allocation: SimulatedAllocation, parts: tuple[Part, ...]) -> None:
        """Write the device rows. What is asserted is what PostgreSQL's constraints enforce.

        Raises:
            AssertionError: somebody else has a device, or a host has not enough left.
        """
        request = allocation.request
        allocation.parts = parts
        assert len({part.host_id for part in parts}) == len(parts) == request.demand.nodes, f"{request}: {parts}"
        for part in parts:
            self._occupy_devices(request, part)
            host = self.hosts[part.host_id]
            host.used_cpu_milli += request.demand.shape.cpu_milli
            host.used_memory_bytes += request.demand.shape.memory_bytes
            assert host.used_cpu_milli <= host.view.cpu_milli, f"host {part.host_id} has too little CPU"
            assert host.used_memory_bytes <= host.view.memory_bytes, f"host {part.host_id} has too little memory"
        self._count(allocation, 1)

    def _occupy_devices(self, request: Request, part: Part) -> None:
        shape = request.demand.shape
        assert [milli for _, milli in part.devices] == [shape.milli] * shape.gpus, f"{request} got {part}"
        for gpu_id, milli in part.devices:
            assert self.devices[gpu_id][0] == part.host_id, f"host {part.host_id} has no device {gpu_id}"
            taken = self.owners[gpu_id]
            assert sum(taken.values()) + milli <= MILLI_PER_GPU, f"device {gpu_id} is given out twice"
            others = {self.allocations[owner].request.customer_id for owner in taken}
            assert others <= {request.customer_id}, f"device {gpu_id} is shared between customers"
            taken[request.allocation_id] = milli

    def vacate(self, allocation: SimulatedAllocation) -> None:
        request = allocation.request
        for part in allocation.parts:
            for gpu_id, _ in part.devices:
                del self.owners[gpu_id][request.allocation_id]
            host = self.hosts[part.host_id]
            host.used_cpu_milli -= request.demand.shape.cpu_milli
            host.used_memory_bytes -= request.demand.shape.memory_bytes
        self._count(allocation, -1)
        allocation.parts, allocation.group_name, allocation.placed_at = (), None, None

    def make_spare(self, group: SimulatedGroup, *, idle_since: datetime | None) -> None:
        """It has no owner any more: it stays idle, or is to be dropped."""
        self.dirty.idle_groups |= group.idle or idle_since is not None
        group.state = "removing" if idle_since is None else "reserved"
        group.owner, group.idle_since = None, idle_since
        for host_id in group.host_ids:
            self.spare[host_id][group.name] = group

    def take_spare(self, group: SimulatedGroup) -> None:
        """It is handed on, or gone."""
        self.dirty.idle_groups |= group.state == "reserved"
        for host_id in group.host_ids:
            del self.spare[host_id][group.name]

    def spare_on(self, host_ids: Iterable[int]) -> list[SimulatedGroup]:
        return list({name: group for host_id in host_ids for name, group in self.spare[host_id].items()}.values())
