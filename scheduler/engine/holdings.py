"""What is held: one place that keeps cluster, capacity groups, fair shares and quotas in step with it."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.cluster.cluster import Cluster
from scheduler.engine.capacity import OPEN, Capacity
from scheduler.engine.evictable import Evictable
from scheduler.engine.fair_share import FairShare, size
from scheduler.engine.tallies import Tallies
from scheduler.states import AllocationState
from scheduler.views import Held


@dataclass(slots=True)
class Holdings:
    cluster: Cluster
    capacity: Capacity
    shares: FairShare
    tallies: Tallies
    evictable: Evictable = field(default_factory=Evictable)
    freed: int = 0  # rises whenever something was given back: what found no place before may find one
    _held: dict[int, Held] = field(default_factory=dict)
    _leaving: dict[int, datetime] = field(default_factory=dict)  # since when
    _on_host: dict[int, dict[int, None]] = field(default_factory=dict)
    _of_group: dict[str, dict[int, None]] = field(default_factory=dict)

    def __contains__(self, allocation_id: int) -> bool:
        return allocation_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def get(self, allocation_id: int) -> Held | None:
        return self._held.get(allocation_id)

    def all(self) -> Iterator[Held]:
        yield from self._held.values()

    def on_host(self, host_id: int) -> list[Held]:
        return [self._held[number] for number in sorted(self._on_host.get(host_id, ()))]

    def of_group(self, name: str | None) -> list[Held]:
        """Of those that name it; None is none."""
        return [self._held[number] for number in sorted(self._of_group.get(name or OPEN, ()))]

    def groups(self) -> list[str]:
        """That are named by what is held, whether there are such groups or not."""
        return sorted(name for name, numbers in self._of_group.items() if numbers)

    def leaving_since(self, allocation_id: int) -> datetime | None:
        """Since when it is known that it ends; None if it does not, or is not there."""
        return self._leaving.get(allocation_id)

    def leaving(self, *, since: datetime) -> list[Held]:
        """Those that have begun to leave at that time or later, and so can be expected to be gone soon."""
        return [self._held[number] for number, begun in sorted(self._leaving.items()) if begun >= since]

    def put(self, held: Held, now: datetime) -> None:
        """Something is held from now on, or what is known of it has changed."""
        number = held.request.allocation_id
        known = self._held.get(number)
        if known is None or _counted(known) != _counted(held):
            self.drop(number, now)
            self._add(held, now)
        else:
            if _decides_eviction(known) != _decides_eviction(held):
                self.evictable.remove(known)
                self.evictable.add(held)
            self._held[number] = held
            self._note_leaving(held, now)

    def drop(self, allocation_id: int, now: datetime) -> None:
        """It holds nothing any more. Idempotent."""
        held = self._held.pop(allocation_id, None)
        if held is None:
            return
        request = held.request
        self._leaving.pop(allocation_id, None)
        self.evictable.remove(held)
        self.cluster.release(allocation_id)
        self.capacity.give_back(request.group, request.demand.gpu_milli, preemptible=request.preemptible)
        self.shares.end(request.customer_id, request.workspace_id, size(request.demand), now)
        self.tallies.remove(held)
        for part in held.parts:
            self._on_host[part.host_id].pop(allocation_id, None)
        self._of_group[request.group or OPEN].pop(allocation_id, None)
        self.freed += 1

    def _note_leaving(self, held: Held, now: datetime) -> None:
        if held.state is AllocationState.RELEASING:
            self._leaving.setdefault(held.request.allocation_id, now)
        else:
            self._leaving.pop(held.request.allocation_id, None)

    def _add(self, held: Held, now: datetime) -> None:
        request = held.request
        number = request.allocation_id
        self._held[number] = held
        self.evictable.add(held)
        self._note_leaving(held, now)
        self.cluster.hold(number, request.customer_id, request.demand, held.parts)
        self.capacity.take(request.group, request.demand.gpu_milli, preemptible=request.preemptible)
        self.shares.begin(request.customer_id, request.workspace_id, size(request.demand), now)
        self.tallies.add(held)
        for part in held.parts:
            self._on_host.setdefault(part.host_id, {})[number] = None
        self._of_group.setdefault(request.group or OPEN, {})[number] = None


def _counted(held: Held) -> Hashable:
    """All that is counted somewhere."""
    request = held.request
    whose = request.customer_id, request.workspace_id, request.user_id
    return whose, request.group, request.preemptible, request.demand, held.parts


def _decides_eviction(held: Held) -> Hashable:
    """What `Evictable` counts, but for the parts."""
    return held.request.priority, held.request.preemptible, held.since, held.checkpoint_at
