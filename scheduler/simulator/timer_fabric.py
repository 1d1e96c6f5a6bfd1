"""Fabrics of the simulator: one on which nothing runs, and one on which work runs by the clock alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.host_protocol import Lease, LeaseEnd
from scheduler.ports import HostShare


class NoFabric:
    """Implements `scheduler.ports.Fabric`: everything succeeds, and nothing runs."""

    def reserve(self, name: str, shares: Sequence[HostShare]) -> None:
        pass

    def remove(self, name: str) -> None:
        pass

    def grant(self, host_uid: str, lease: Lease) -> None:
        pass

    def end(
        self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int, reason: str = ""
    ) -> LeaseEnd | None:
        pass


class Runs(Protocol):
    """Who is told what happens, with the time in milliseconds since the beginning: a `Course`, as a rule."""

    def granted(self, uid: str, now_ms: int) -> None: ...

    def ended(self, uid: str, now_ms: int) -> None: ...


@dataclass(slots=True)
class TimerFabric(NoFabric):
    """Work runs from its grant on. `now_ms` says what time it is, in milliseconds since the beginning."""

    runs: Runs
    now_ms: Callable[[], int]
    _hosts: dict[str, set[str]] = field(default_factory=dict)  # that hold a lease, by uid of the allocation

    def grant(self, host_uid: str, lease: Lease) -> None:
        hosts = self._hosts.setdefault(lease.allocation_uid, set())
        if host_uid not in hosts:
            hosts.add(host_uid)
            self.runs.granted(lease.allocation_uid, self.now_ms())

    def end(
        self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int, reason: str = ""
    ) -> LeaseEnd | None:
        hosts = self._hosts.get(allocation_uid, set())
        if host_uid not in hosts:
            return None
        hosts.discard(host_uid)
        if not hosts:
            del self._hosts[allocation_uid]
            self.runs.ended(allocation_uid, self.now_ms())
        return LeaseEnd(self.now_ms(), exit_code=0, last_window=None)
