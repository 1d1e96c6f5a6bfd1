"""Who must give way to a request that finds no place: as little work as possible is lost, and nobody evicts in circles.

A request may evict what is preemptible and of lower rank (a lower priority, or the same and preemptible where the
request is not); what has a lower priority in its own capacity group, if the group says so; and, while it stays within
its group's own quota, what other groups of the cohort have borrowed. Rank is the priority as it was given, without
ageing: it is a strict order, and who reclaims never borrows, so no two requests can evict each other in turn. Nothing
is evicted before its minimum runtime, nor out of an advance reservation.

Victims lose the fewest GPU-seconds since their last checkpoint, host by host; one that turns out not to be needed is
kept.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.engine.capacity import Capacity
from scheduler.engine.evictable import Class
from scheduler.engine.holdings import Holdings
from scheduler.engine.host_clearing import Clearing, clear_host
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Request

_LOOKED_AT = 48  # hosts, for a request of one node


@dataclass(frozen=True, slots=True)
class Sacrifice:
    """What has to go so that the request fits on `parts`; nothing, if what is leaving already makes room."""

    victims: tuple[Held, ...]
    parts: tuple[Part, ...]


def lost_gpu_seconds(held: Held, now: datetime) -> float:
    return held.request.demand.gpu_milli / 1000 * _unsaved_s(held, now)


def _unsaved_s(held: Held, now: datetime) -> float:
    since = held.since if held.checkpoint_at is None else max(held.since, held.checkpoint_at)
    return max(0.0, (now - since).total_seconds())


@dataclass(slots=True)
class Preemption:
    cluster: Cluster
    capacity: Capacity
    holdings: Holdings

    def search(self, request: Request, now: datetime, *, spared: Set[int]) -> Sacrifice | None:
        """The cheapest victims, or None. `spared` are ids that give way to somebody else already."""
        leaving = self.holdings.releasing()
        with self.cluster.trial(), self._without(leaving):
            for_quota = self._for_quota(request, now, spared)
            if for_quota is None:
                return None
            for victim in for_quota:
                self.cluster.release(victim.request.allocation_id)
            parts = self.cluster.find(request.demand, request.customer_id)
            more: Sequence[Held] = ()
            if parts is None:
                found = self._by_host(request, now, spared, for_quota)
                if found is None:
                    return None
                parts, more = found
            return Sacrifice(self._needed(request, for_quota, more, parts), parts)

    @contextmanager
    def _without(self, leaving: Sequence[Held]) -> Iterator[None]:
        """What is about to end is waited for, before anything else is evicted."""
        for held in leaving:
            self.cluster.release(held.request.allocation_id)
            self._give(held)
        try:
            yield
        finally:
            for held in leaving:
                self.capacity.take(held.request.group, held.request.demand.gpu_milli)

    def may_evict(self, request: Request, victim: Held, now: datetime) -> bool:
        if victim.state is not AllocationState.ACTIVE or victim.request.reservation_id is not None:
            return False
        if now < victim.since + timedelta(seconds=victim.request.min_runtime_s):
            return False
        return self._outranks(request, victim.request) or self._reclaims(request, victim.request)

    def _outranks(self, request: Request, other: Request | Class) -> bool:
        if other.preemptible and _rank(request) > _rank(other):
            return True
        group = self.capacity.group(request.group)
        same = group is not None and request.group is not None and request.group == other.group
        return same and group is not None and group.preempt_lower_priority and request.priority > other.priority

    def _reclaims(self, request: Request, other: Request | Class) -> bool:
        """What is its group's own, and was lent: inside the cohort, or to preemptible ones beyond the open group."""
        group = self.capacity.group(request.group)
        if group is None or request.group is None or self.capacity.is_open(request.group):
            return False
        if self.capacity.borrows(group.name, request.demand.gpu_milli) or not self.capacity.borrows(other.group, 0):
            return False
        if self.capacity.is_open(other.group):
            return other.preemptible
        lender = self.capacity.group(other.group)
        within = lender is not None and group.cohort is not None and group.cohort == lender.cohort
        return within and group.reclaim_within_cohort and other.group != request.group

    def _for_quota(self, request: Request, now: datetime, spared: Set[int]) -> list[Held] | None:
        """The fewest, cheapest victims with which the request fits into its group; None if there are none."""
        milli = request.demand.gpu_milli
        if self.capacity.fits(request.group, milli, preemptible=request.preemptible):
            return []
        candidates = self._quota_candidates(request, now, spared)
        taken: list[Held] = []
        try:
            for victim in candidates:
                if self.capacity.fits(request.group, milli):
                    break
                if not self.may_evict(request, victim, now):  # its group may have stopped to borrow by now
                    continue
                self._give(victim)
                taken.append(victim)
            if not self.capacity.fits(request.group, milli):
                return None
            kept = self._fill_back(request.group, milli, taken)
            return [victim for victim in taken if victim not in kept]
        finally:
            for victim in taken:
                self.capacity.take(victim.request.group, victim.request.demand.gpu_milli)

    def _quota_candidates(self, request: Request, now: datetime, spared: Set[int]) -> list[Held]:
        """Those first of which the least is lost for what they give; then the lowest priority, others' before own."""
        found = [
            victim
            for name in (*self.capacity.cohort_members(request.group), None)
            for victim in self.holdings.of_group(name)
            if victim.request.allocation_id not in spared and self.may_evict(request, victim, now)
        ]

        def order(victim: Held) -> tuple[float, int, bool, int]:
            own = victim.request.group == request.group
            return _unsaved_s(victim, now), victim.request.priority, own, -victim.request.allocation_id

        return sorted(found, key=order)

    def _fill_back(self, group: str | None, milli: int, taken: Sequence[Held]) -> list[Held]:
        """Those that may stay after all; `capacity` is left as if all were gone."""
        stay: list[Held] = []
        for victim in reversed(taken):
            self.capacity.take(victim.request.group, victim.request.demand.gpu_milli)
            if self.capacity.fits(group, milli):
                stay.append(victim)
            else:
                self._give(victim)
        for victim in stay:
            self._give(victim)
        return stay

    def _give(self, victim: Held) -> None:
        self.capacity.take(victim.request.group, -victim.request.demand.gpu_milli)

    def _by_host(
        self, request: Request, now: datetime, spared: Set[int], gone: Sequence[Held]
    ) -> tuple[tuple[Part, ...], Sequence[Held]] | None:
        """Hosts on which the least is lost, and what has to leave them, beside those that are `gone`."""
        absent = spared | {victim.request.allocation_id for victim in gone}
        clearings: list[Clearing] = []
        for host_id in self._hosts(request, now):
            victims = [
                victim
                for victim in self.holdings.on_host(host_id)
                if victim.request.allocation_id not in absent and self.may_evict(request, victim, now)
            ]
            costs = {victim.request.allocation_id: lost_gpu_seconds(victim, now) for victim in victims}
            for room in self.cluster.rooms(host_id, request.demand):
                clearing = clear_host(room, request.demand, request.customer_id, victims, costs)
                clearings += [clearing] if clearing is not None else []
        chosen = _cheapest(clearings, request.demand, self.cluster)
        if chosen is None:
            return None
        victims_by_id = {victim.request.allocation_id: victim for clearing in chosen for victim in clearing.victims}
        parts = tuple(clearing.part for clearing in chosen)
        return parts, [victims_by_id[number] for number in sorted(victims_by_id)]

    def _hosts(self, request: Request, now: datetime) -> list[int]:
        """Where to look closely: a bounded number, unless the request must keep together in one place."""
        demand = request.demand
        hosts, free_milli = self.cluster.free_milli(demand)
        most = len(hosts) if demand.within else _LOOKED_AT + 2 * demand.nodes
        classes = [kind for kind in self._classes(request) if self._concerns(request, kind)]
        return self.holdings.evictable.cheapest_hosts(
            classes, hosts, free_milli, demand.shape.gpu_milli, now_s=now.timestamp(), most=most
        )

    def may_find(self, request: Request) -> bool:
        """Whether there is anything at all that it might evict."""
        return any(self._concerns(request, kind) for kind in self._classes(request))

    def _classes(self, request: Request) -> list[Class]:
        members = () if self.capacity.is_open(request.group) else self.capacity.cohort_members(request.group)
        return self.holdings.evictable.classes(members)

    def _concerns(self, request: Request, kind: Class) -> bool:
        return self._outranks(request, kind) or self._reclaims(request, kind)

    def _needed(
        self, request: Request, for_quota: Sequence[Held], more: Sequence[Held], parts: Sequence[Part]
    ) -> tuple[Held, ...]:
        """Without those whose quota is not needed once the others have left."""
        if not more or not for_quota:
            return (*for_quota, *more)
        hosts = {part.host_id for part in parts}
        for victim in (*for_quota, *more):
            self._give(victim)
        needed = list(for_quota)
        for victim in for_quota:
            if any(part.host_id in hosts for part in victim.parts):
                continue
            self.capacity.take(victim.request.group, victim.request.demand.gpu_milli)
            if self.capacity.fits(request.group, request.demand.gpu_milli):
                needed.remove(victim)
            else:
                self._give(victim)
        for victim in (*needed, *more):
            self.capacity.take(victim.request.group, victim.request.demand.gpu_milli)
        return (*needed, *more)


def _rank(request: Request | Class) -> tuple[int, bool]:
    return request.priority, not request.preemptible


def _cheapest(clearings: Sequence[Clearing], demand: Demand, cluster: Cluster) -> list[Clearing] | None:
    """One per node, all of one model and, if the demand says so, in one place of the topology."""
    by_place: dict[tuple[str, str], list[Clearing]] = {}
    for clearing in clearings:
        host = cluster.host(clearing.part.host_id)
        where = host.labels.get(demand.within) if demand.within and host is not None else ""
        if where is not None:
            by_place.setdefault((where, clearing.model), []).append(clearing)
    best: tuple[float, list[Clearing]] | None = None
    for _, found in sorted(by_place.items()):
        if len(found) < demand.nodes:
            continue
        chosen = sorted(found, key=lambda clearing: (clearing.cost, clearing.part.host_id))[: demand.nodes]
        cost = sum(clearing.cost for clearing in chosen)
        if best is None or cost < best[0]:
            best = cost, chosen
    return best[1] if best else None
