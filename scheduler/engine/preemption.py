"""What must give way to a request that finds no place: as little work as possible is lost, and no more than needed.

`eviction_rules` says what may be evicted at all; nothing is before its minimum runtime, nor out of an advance
reservation, nor where it could not be told to leave. Victims lose the fewest GPU-seconds since their last checkpoint,
host by host; one that turns out not to be needed is kept. What is about to end is waited for first.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.engine.capacity import Capacity
from scheduler.engine.evictable import Class
from scheduler.engine.eviction_rules import EvictionRules
from scheduler.engine.holdings import Holdings
from scheduler.engine.host_clearing import Clearing, clear_host
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Request

_LOOKED_AT = 48  # hosts, for a request of one node
_LOOKED_AT_AGAIN = 8  # times as many, if what runs on those has not run for long enough
_ATTEMPTS = 4
_CPU_MILLI_PER_GPU = 8_000  # work without GPUs is weighed by its CPU: what a GPU takes of it


@dataclass(frozen=True, slots=True)
class Sacrifice:
    """What has to go so that the request fits on `parts`; nothing, if what is leaving already makes room."""

    victims: tuple[Held, ...]
    parts: tuple[Part, ...]


def lost_gpu_seconds(held: Held, now: datetime) -> float:
    demand = held.request.demand
    gpus = demand.gpu_milli / 1000 or demand.nodes * demand.shape.cpu_milli / _CPU_MILLI_PER_GPU
    return gpus * _unsaved_s(held, now)


def _unsaved_s(held: Held, now: datetime) -> float:
    since = held.since if held.checkpoint_at is None else max(held.since, held.checkpoint_at)
    return max(0.0, (now - since).total_seconds())


@dataclass(slots=True)
class Preemption:
    """`leaving` is what is about to end anyway."""

    cluster: Cluster
    capacity: Capacity
    holdings: Holdings
    leaving: Sequence[Held]
    now: datetime

    def search(self, request: Request) -> Sacrifice | None:
        """The cheapest victims, or None if there are none that would do. What a group uses of its own is not reclaimed
        along with what it has borrowed, unless there are no others.
        """
        spared, fallback = set[int](), None
        with self.cluster.trial(), self._without(self.leaving):
            for held in self._leaving_room(request):
                self.cluster.release(held.request.allocation_id)
            for _ in range(_ATTEMPTS):
                found = self._sparing(request, spared)
                if found is None:
                    break
                victims = sorted(found.victims, key=self._dearness)
                unlawful, partly_own = self._objections(request, victims)
                if not unlawful and not partly_own:
                    return Sacrifice(tuple(victims), found.parts)
                if not unlawful and fallback is None:
                    fallback = Sacrifice(tuple(victims), found.parts)
                spared |= unlawful or partly_own | self._partly_own(request)
        return fallback

    def _leaving_room(self, request: Request) -> list[Held]:
        """What leaves hosts on which the request could run: the rest makes no room for it."""
        hosts = set(self.cluster.free_milli(request.demand)[0].tolist())
        return [held for held in self.leaving if any(part.host_id in hosts for part in held.parts)]

    def _dearness(self, victim: Held) -> tuple[float, int]:
        return _unsaved_s(victim, self.now), victim.request.allocation_id

    def may_find(self, request: Request) -> bool:
        """Whether there is anything at all that it might evict."""
        rules = self._rules
        return any(rules.allow(request, kind) for kind in self._candidates(request))

    def _sparing(self, request: Request, spared: Set[int]) -> Sacrifice | None:
        for_quota = self._for_quota(request, spared)
        if for_quota is None:
            return None
        with self.cluster.trial():
            for victim in for_quota:
                self.cluster.release(victim.request.allocation_id)
            parts = self.cluster.find(request.demand, request.customer_id)
            if parts is not None:
                return Sacrifice(tuple(for_quota), parts)
            found = self._by_host(request, spared | {victim.request.allocation_id for victim in for_quota})
        if found is None:
            return None
        parts, more = found
        return Sacrifice(self._needed(request, for_quota, more, parts), parts)

    def _objections(self, request: Request, victims: Sequence[Held]) -> tuple[set[int], set[int]]:
        """Those that it may not evict once those before have gone, since their group has stopped to borrow by then; and
        those that it may, but that are partly their group's own by then.
        """
        rules, gone = self._rules, list[Held]()
        unlawful, partly_own = set[int](), set[int]()
        for victim in victims:
            if not rules.allow(request, victim.request):
                unlawful.add(victim.request.allocation_id)
                continue
            if rules.takes_own(request, victim.request):
                partly_own.add(victim.request.allocation_id)
            self._give(victim)
            gone.append(victim)
        self._take_back(gone)
        return unlawful, partly_own

    def _partly_own(self, request: Request) -> set[int]:
        """All of its cohort that would already be so if it were the only one to go."""
        rules = self._rules
        found = (held.request for held in self._of_cohort(request) if rules.takes_own(request, held.request))
        return {other.allocation_id for other in found}

    def _of_cohort(self, request: Request) -> Iterator[Held]:
        cohort = set(self.capacity.cohort(request.group))
        for name in self.holdings.groups():
            if self.capacity.name(name) in cohort:
                yield from self.holdings.of_group(name)

    def _may_evict(self, request: Request, victim: Held) -> bool:
        return self._would_leave(victim) and self._old_enough(victim) and self._rules.allow(request, victim.request)

    def _would_leave(self, victim: Held) -> bool:
        """What has a part on a host that cannot be reached keeps all that it has until that host is back, or lost."""
        hosts = (self.cluster.host(part.host_id) for part in victim.parts)
        return _is_settled(victim) and all(host is not None and host.reachable for host in hosts)

    def _old_enough(self, victim: Held) -> bool:
        return self.now >= victim.since + timedelta(seconds=victim.request.min_runtime_s)

    @property
    def _rules(self) -> EvictionRules:
        return EvictionRules(self.capacity)

    def _for_quota(self, request: Request, spared: Set[int]) -> list[Held] | None:
        """The fewest, cheapest victims with which the request fits into its group; None if there are none."""
        milli = request.demand.gpu_milli
        if self.capacity.fits(request.group, milli, preemptible=request.preemptible):
            return []
        taken: list[Held] = []
        for victim in self._quota_candidates(request, spared):
            if self.capacity.fits(request.group, milli):
                break
            if self._rules.allow(request, victim.request):  # its group may have stopped to borrow by now
                self._give(victim)
                taken.append(victim)
        enough = self.capacity.fits(request.group, milli)
        needed = self._without_spare(request, taken) if enough else taken
        self._take_back(needed)
        return needed if enough else None

    def _quota_candidates(self, request: Request, spared: Set[int]) -> list[Held]:
        """Those first of which the least is lost for what they give; then the lowest priority, others' before own."""
        found = [
            victim
            for victim in self._of_cohort(request)
            if victim.request.allocation_id not in spared and self._may_evict(request, victim)
        ]

        def order(victim: Held) -> tuple[float, int, bool, int]:
            own = victim.request.group == request.group
            return _unsaved_s(victim, self.now), victim.request.priority, own, -victim.request.allocation_id

        return sorted(found, key=order)

    def _without_spare(self, request: Request, taken: Sequence[Held]) -> list[Held]:
        """The dearest that is not needed may stay, and so on. The quota of those who may is taken again."""
        needed = list(taken)
        for victim in reversed(taken):
            self._take_back([victim])
            if self.capacity.fits(request.group, request.demand.gpu_milli):
                needed.remove(victim)
            else:
                self._give(victim)
        return needed

    def _by_host(self, request: Request, absent: Set[int]) -> tuple[tuple[Part, ...], Sequence[Held]] | None:
        """Hosts on which the least is lost, and what has to leave them, beside what is `absent`."""
        most = _LOOKED_AT + 2 * request.demand.nodes
        hosts = self._hosts(request, most * _LOOKED_AT_AGAIN)
        chosen, young = self._on_hosts(request, hosts if request.demand.within else hosts[:most], absent)
        if chosen is None and young:
            chosen, _ = self._on_hosts(request, hosts, absent)
        if chosen is None:
            return None
        victims = {victim.request.allocation_id: victim for clearing in chosen for victim in clearing.victims}
        return tuple(clearing.part for clearing in chosen), [victims[number] for number in sorted(victims)]

    def _on_hosts(self, request: Request, hosts: Sequence[int], absent: Set[int]) -> tuple[list[Clearing] | None, bool]:
        """The cheapest clearings, and whether something was spared because it has not run for long enough."""
        clearings: list[Clearing] = []
        young = False
        apart = self.cluster.hosts_apart(request.demand, request.customer_id)
        for host_id in hosts:
            if host_id in apart:
                continue
            allowed = [
                victim
                for victim in self.holdings.on_host(host_id)
                if victim.request.allocation_id not in absent
                and self._would_leave(victim)
                and self._rules.allow(request, victim.request)
            ]
            victims = [victim for victim in allowed if self._old_enough(victim)]
            young = young or len(victims) < len(allowed)
            costs = {victim.request.allocation_id: lost_gpu_seconds(victim, self.now) for victim in victims}
            for room in self.cluster.rooms(host_id, request.demand):
                clearing = clear_host(room, request.demand, request.customer_id, victims, costs)
                clearings += [clearing] if clearing is not None else []
        return _cheapest(clearings, request.demand, self.cluster), young

    def _hosts(self, request: Request, most: int) -> list[int]:
        """Where it could come to fit, the cheapest first as far as an estimate can tell. A request that must keep
        together in one place looks everywhere.
        """
        hosts, free_milli = self.cluster.free_milli(request.demand)
        if not request.demand.shape.gpus:
            return self._with_room(request, hosts.tolist())[:most]
        return self.holdings.evictable.cheapest_hosts(
            self._classes(request),
            hosts,
            free_milli,
            request.demand.shape.gpu_milli,
            now_s=self.now.timestamp(),
            most=len(hosts) if request.demand.within else most,
        )

    def _with_room(self, request: Request, hosts: Sequence[int]) -> list[int]:
        """Of these, where CPU and memory could come to suffice; those first on which the least would be lost in all."""
        shape, found = request.demand.shape, list[tuple[float, int]]()
        for host_id in hosts:
            held = self.holdings.on_host(host_id)
            victims = [each for each in held if self._may_evict(request, each)]
            rooms = self.cluster.rooms(host_id, request.demand) if victims else []
            freed = [victim.request.demand.shape for victim in victims]
            if (
                rooms
                and rooms[0].cpu_milli + sum(each.cpu_milli for each in freed) >= shape.cpu_milli
                and rooms[0].memory_bytes + sum(each.memory_bytes for each in freed) >= shape.memory_bytes
            ):
                found.append((sum(lost_gpu_seconds(victim, self.now) for victim in victims), host_id))
        return [host_id for _, host_id in sorted(found)]

    def _classes(self, request: Request) -> list[Class]:
        rules = self._rules
        return [kind for kind in self._candidates(request) if rules.allow(request, kind)]

    def _candidates(self, request: Request) -> list[Class]:
        """All that the rules could allow: what is preemptible, what is of its group, and what is reclaimed."""
        if self.capacity.is_open(request.group):
            return self.holdings.evictable.classes(())
        own = self.capacity.name(request.group)
        others = self.capacity.borrowers(own) if self._rules.may_reclaim(request) else ()
        return self.holdings.evictable.classes([own, *(name for name in others if name != own)])

    def _needed(
        self, request: Request, for_quota: Sequence[Held], more: Sequence[Held], parts: Sequence[Part]
    ) -> tuple[Held, ...]:
        """Without those whose quota is not needed once the others have left."""
        hosts = {part.host_id for part in parts}
        elsewhere = [victim for victim in for_quota if all(part.host_id not in hosts for part in victim.parts)]
        there = [victim for victim in for_quota if victim not in elsewhere]
        gone = [*elsewhere, *there, *more]
        for victim in gone:
            self._give(victim)
        needed = [*there, *self._without_spare(request, elsewhere), *more]
        self._take_back(needed)
        return tuple(needed)

    @contextmanager
    def _without(self, leaving: Sequence[Held]) -> Iterator[None]:
        for held in leaving:
            self._give(held)
        try:
            yield
        finally:
            self._take_back(leaving)

    def _give(self, victim: Held) -> None:
        self._take(victim.request, -1)

    def _take_back(self, victims: Sequence[Held]) -> None:
        for victim in victims:
            self._take(victim.request, 1)

    def _take(self, request: Request, sign: int) -> None:
        self.capacity.take(request.group, sign * request.demand.gpu_milli, preemptible=request.preemptible)


def _is_settled(held: Held) -> bool:
    return held.state is AllocationState.ACTIVE and held.request.reservation_id is None


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
