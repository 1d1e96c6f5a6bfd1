"""Ray and the hosts in memory, with faults that a test or the simulator asks for by name."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.host_protocol import Lease, LeaseEnd
from scheduler.money import MILLI_PER_GPU
from scheduler.ports import (
    CapacityError,
    FabricError,
    HostShare,
    HostUnreachableError,
    StaleGenerationError,
    StillEndingError,
)


class Fault(StrEnum):
    NONE = "none"
    FAILS = "fails"  # nothing was done
    ANSWER_LOST = "answer_lost"  # it was done, but whoever asked does not know
    CRASH_BEFORE = "crash_before"  # whoever asked dies before it was done,
    CRASH_AFTER = "crash_after"  # or between the effect and its record


class SimulatedCrashError(BaseException):
    """The controller dies here: not an Exception, so that nothing handles it."""


class DoubleUseError(BaseException):
    """Something was given out twice. Not an Exception either: the loop must not take it for a failed effect."""


@dataclass(slots=True)
class Machine:
    """What one host has: capacity for Ray to reserve, leases, and containers that run under them."""

    cpu_milli: int
    memory_bytes: int
    reachable: bool = True
    leases: dict[str, Lease] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)  # uids of allocations with a container
    in_grace: dict[str, int] = field(default_factory=dict)  # how often their end is still going on when asked for


@dataclass(slots=True)
class MemoryFabric:
    """Implements `scheduler.ports.Fabric`. The first of `faults` strikes the next call, and so on."""

    machines: dict[str, Machine] = field(default_factory=dict)
    groups: dict[str, tuple[HostShare, ...]] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    now_ms: int = 0

    def reserve(self, name: str, shares: Sequence[HostShare]) -> None:
        with self._fault(CapacityError):
            if name in self.groups:
                return
            self._check_room(name, shares)
            self.groups[name] = tuple(shares)

    def remove(self, name: str) -> None:
        with self._fault(FabricError):
            self.groups.pop(name, None)

    def grant(self, host_uid: str, lease: Lease) -> None:
        machine = self._reach(host_uid)
        with self._fault(HostUnreachableError):
            held = machine.leases.get(lease.allocation_uid)
            if held is not None and held.generation > lease.generation:
                raise StaleGenerationError(lease.allocation_uid)
            machine.leases[lease.allocation_uid] = lease

    def end(
        self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int, reason: str = ""
    ) -> LeaseEnd | None:
        machine = self._reach(host_uid)
        with self._fault(HostUnreachableError):
            held = machine.leases.get(allocation_uid)
            if held is None:
                return None
            if held.generation != generation:
                raise StaleGenerationError(allocation_uid)
            if machine.in_grace.get(allocation_uid, 0) > 0:
                machine.in_grace[allocation_uid] -= 1
                raise StillEndingError(allocation_uid)
            del machine.leases[allocation_uid]
            machine.running.discard(allocation_uid)
            return LeaseEnd(self.now_ms, exit_code=0, last_window=None)

    def start_container(self, host_uid: str, allocation_uid: str, generation: int) -> None:
        """What the Hub does with an active allocation. Containers share a device only if it has enough for all."""
        machine = self.machines[host_uid]
        lease = machine.leases[allocation_uid]
        assert lease.generation == generation, "an active allocation's lease is on its host"
        machine.running.add(allocation_uid)
        running = [machine.leases[uid] for uid in machine.running]
        if over := _overused(running):
            raise DoubleUseError(f"{over} in too many containers")
        customers = {other.customer_uid for other in running if _devices(other) & _devices(lease)}
        if len(customers) > 1:
            raise DoubleUseError(f"{_devices(lease)} shared between customers {customers}")

    def run_out(self, host_uid: str) -> None:
        """Every lease's `run_until` has passed: the daemon has stopped all by itself."""
        machine = self.machines[host_uid]
        machine.leases.clear()
        machine.running.clear()

    def _reach(self, host_uid: str) -> Machine:
        machine = self.machines[host_uid]
        if not machine.reachable:
            raise HostUnreachableError(f"{host_uid} does not answer")
        return machine

    def _check_room(self, name: str, shares: Sequence[HostShare]) -> None:
        """Ray holds no more of a device, of CPU and of memory than there is. The store must see to it before."""
        for share in shares:
            all_here = [s for group in [*self.groups.values(), shares] for s in group if s.host_uid == share.host_uid]
            machine = self.machines[share.host_uid]
            if (
                _overused(all_here)
                or sum(s.cpu_milli for s in all_here) > machine.cpu_milli
                or sum(s.memory_bytes for s in all_here) > machine.memory_bytes
            ):
                raise DoubleUseError(f"{name}: Ray has given out {share} to others")

    @contextmanager
    def _fault(self, error: type[FabricError]) -> Iterator[None]:
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if fault is Fault.CRASH_BEFORE:
            raise SimulatedCrashError
        if fault is Fault.FAILS:
            raise error(fault)
        yield
        if fault is Fault.CRASH_AFTER:
            raise SimulatedCrashError
        if fault is Fault.ANSWER_LOST:
            raise error(fault)


def _devices(lease: Lease) -> set[str]:
    return {device.uuid for device in lease.devices}


def _overused(holders: Iterable[Lease | HostShare]) -> set[str]:
    """The devices of which more is given out than there is."""
    taken = Counter[str]()
    for holder in holders:
        for device in holder.devices:
            taken[device.uuid] += device.milli
    return {uuid for uuid, milli in taken.items() if milli > MILLI_PER_GPU}
