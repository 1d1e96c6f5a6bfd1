"""Fabrics of the simulator: one on which nothing runs, and one on which work runs by the clock alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scheduler.host_protocol import Lease, LeaseEnd
from scheduler.ports import HostShare
from scheduler.simulator.course import Course


class NoFabric:
    """Implements `scheduler.ports.Fabric`: everything succeeds, and nothing runs."""

    def reserve(self, name: str, shares: Sequence[HostShare]) -> None:
        pass

    def remove(self, name: str) -> None:
        pass

    def grant(self, host_uid: str, lease: Lease) -> None:
        pass

    def end(self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int) -> LeaseEnd | None:
        pass


@dataclass(slots=True)
class TimerFabric(NoFabric):
    """Work runs from its grant on. `now_ms` says what time it is, in milliseconds since the beginning."""

    course: Course
    now_ms: Callable[[], int]
    _hosts: dict[str, set[str]] = field(default_factory=dict)  # that hold a lease, by uid of the allocation

    def grant(self, host_uid: str, lease: Lease) -> None:
        hosts = self._hosts.setdefault(lease.allocation_uid, set())
        if host_uid not in hosts:
            hosts.add(host_uid)
            self.course.granted(lease.allocation_uid, self.now_ms())

    def end(self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int) -> LeaseEnd | None:
        hosts = self._hosts.get(allocation_uid, set())
        if host_uid not in hosts:
            return None
        hosts.discard(host_uid)
        if not hosts:
            del self._hosts[allocation_uid]
            self.course.ended(allocation_uid, self.now_ms())
        return LeaseEnd(self.now_ms(), exit_code=0, last_window=None)
