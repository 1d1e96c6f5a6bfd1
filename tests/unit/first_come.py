"""A decider for tests of the loop: first come first served, by priority; it preempts one allocation at a time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.money import MILLI_PER_GPU
from scheduler.plan import Plan
from scheduler.ports import Changes, Eviction, Placement, WaitReason
from scheduler.states import AllocationState
from scheduler.views import Held, HostView, Part, Request


@dataclass
class FirstCome:
    """Implements `scheduler.plan.Decider` for demands by model and bound host."""

    hosts: dict[int, HostView] = field(default_factory=dict)
    queued: dict[int, Request] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    placed: dict[int, tuple[Request, tuple[Part, ...]]] = field(default_factory=dict)  # not yet in what the store says
    limited: dict[int, int] = field(default_factory=dict)  # customer id by allocation id
    told: dict[int, WaitReason] = field(default_factory=dict)

    def update(self, changes: Changes, now: datetime) -> None:
        if changes.complete:
            self.__init__()  # type: ignore[misc]  # forget everything
        self.hosts |= {host.host_id: host for host in changes.hosts}
        for allocation_id in [*changes.gone, *(r.allocation_id for r in changes.queued)]:
            self._forget(allocation_id)
        self.queued |= {request.allocation_id: request for request in changes.queued}
        for held in changes.held:
            self._forget(held.request.allocation_id)
            self.held[held.request.allocation_id] = held

    def _forget(self, allocation_id: int) -> None:
        request = self.queued.pop(allocation_id, None)
        held = self.held.pop(allocation_id, None)
        self.placed.pop(allocation_id, None)
        self.told.pop(allocation_id, None)
        customer_id = request.customer_id if request else held.request.customer_id if held else None
        self.limited = {other: customer for other, customer in self.limited.items() if customer != customer_id}

    def refused(self, reasons: Mapping[int, WaitReason]) -> None:
        for allocation_id, reason in reasons.items():
            request, _ = self.placed.pop(allocation_id)
            self.queued[allocation_id] = request
            if reason.code == "quota":
                self.limited |= {
                    other.allocation_id: other.customer_id
                    for other in self.queued.values()
                    if other.customer_id == request.customer_id and other.demand.gpu_milli >= request.demand.gpu_milli
                }

    def decide(self, now: datetime) -> Plan:
        placements, waits = [], {}
        evictions: list[Eviction] = []
        for request in sorted(self.queued.values(), key=lambda r: (-r.priority, r.queued_at, r.allocation_id)):
            later = request.not_before is not None and request.not_before > now
            parts = None if later or request.allocation_id in self.limited else self._find(request)
            if parts is not None:
                self.placed[request.allocation_id] = request, parts
                placements.append(Placement(request.allocation_id, parts))
                continue
            waits[request.allocation_id] = self._reason(request, later=later, ahead=len(waits))
            if not later and not evictions:
                evictions.extend(self._victim(request))
        for placement in placements:
            del self.queued[placement.allocation_id]
        new = {number: reason for number, reason in waits.items() if self.told.get(number) != reason}
        self.told |= new
        return Plan(placements, evictions, new)

    def _reason(self, request: Request, *, later: bool, ahead: int) -> WaitReason:
        code = "quota" if request.allocation_id in self.limited else "backing_off" if later else "no_capacity"
        return WaitReason(code, code, ahead + 1)

    def _victim(self, request: Request) -> Iterator[Eviction]:
        if any(held.state is not AllocationState.ACTIVE for held in self.held.values()):
            return
        for held in sorted(self.held.values(), key=lambda held: held.request.allocation_id):
            if held.request.preemptible and held.request.priority < request.priority:
                yield Eviction(held.request.allocation_id, held.generation, request.allocation_id, "priority")
                return

    def _find(self, request: Request) -> tuple[Part, ...] | None:
        demand, parts = request.demand, []
        for host in sorted(self.hosts.values(), key=lambda host: host.host_id):
            if len(parts) < demand.nodes and host.schedulable and demand.bound_host_id in (None, host.host_id):
                chosen = self._devices(request, host)
                if len(chosen) == demand.shape.gpus and self._room(host, request):
                    parts.append(Part(host.host_id, tuple((gpu_id, demand.shape.milli) for gpu_id in chosen)))
        return tuple(parts) if len(parts) == demand.nodes else None

    def _devices(self, request: Request, host: HostView) -> list[int]:
        taken: dict[int, int] = defaultdict(int)
        for other, part in self._taken(host):
            for gpu_id, milli in part.devices:
                taken[gpu_id] += milli if other.customer_id == request.customer_id else MILLI_PER_GPU
        shape, models = request.demand.shape, request.demand.models
        fitting = [
            device.gpu_id
            for device in host.devices
            if taken[device.gpu_id] + shape.milli <= MILLI_PER_GPU and (not models or device.model in models)
        ]
        return fitting[: shape.gpus]

    def _room(self, host: HostView, request: Request) -> bool:
        shapes = [request.demand.shape, *(other.demand.shape for other, _ in self._taken(host))]
        cpu_milli, memory_bytes = sum(s.cpu_milli for s in shapes), sum(s.memory_bytes for s in shapes)
        return cpu_milli <= host.cpu_milli and memory_bytes <= host.memory_bytes

    def _taken(self, host: HostView) -> list[tuple[Request, Part]]:
        holders = [*self.placed.values(), *((held.request, held.parts) for held in self.held.values())]
        return [(request, part) for request, parts in holders for part in parts if part.host_id == host.host_id]
