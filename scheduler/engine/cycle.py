"""One decision cycle: every line's first request in order, until nothing more starts or the work has its bound."""

import heapq
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from scheduler.demand import Demand
from scheduler.engine import booked, verdicts
from scheduler.engine.backlog import Line
from scheduler.engine.blocked import Blocked, Code, Epoch
from scheduler.engine.expected_ends import ExpectedEnd, in_order
from scheduler.engine.explanation import Explanation
from scheduler.engine.kept import Asides, Kept
from scheduler.engine.lookahead import earliest_start
from scheduler.engine.order import Order, Rank
from scheduler.engine.preemption import Preemption
from scheduler.engine.state import State
from scheduler.money import MILLI_PER_GPU
from scheduler.plan import Plan
from scheduler.ports import Eviction, Placement
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Request

_SEARCHES_OF_A_PREEMPTION = 20  # how many it counts for

_Entry = tuple[bool, Rank, int, Line, int]


@dataclass(slots=True)
class Cycle:
    state: State
    now: datetime
    _placements: list[Placement] = field(default_factory=list)
    _evictions: list[Eviction] = field(default_factory=list)
    _quota_aside: list[tuple[str | None, int]] = field(default_factory=list)
    _evicted: set[int] = field(default_factory=set)
    _ends: list[ExpectedEnd] | None = None
    _searches: int = 0
    _unfinished: bool = False
    # In a cycle places only become fewer, so what was not found once is not looked for again.
    _nowhere: set[tuple[Demand, int | None, datetime | None]] = field(default_factory=set)
    _shortages: dict[Demand, Blocked] = field(default_factory=dict)
    _no_victims: set[tuple[Demand, int, bool, str | None]] = field(default_factory=set)

    def run(self) -> Plan:
        state = self.state
        state.backlog.wake(self.now)
        order, asides = Order(state, self.now), Asides(state.cluster)
        explanation = Explanation(state, self.now, order)
        booked.keep_devices(state, asides, self.now)
        for held in booked.in_the_way(state, self.now):
            self._evict(held, 0, "It gives way to an advance reservation.")
        try:
            self._go_through(order, asides, explanation)
        finally:
            asides.clear()
            for group, milli in self._quota_aside:
                state.capacity.take(group, -milli)
        return Plan(self._placements, self._evictions, explanation.waits(), self._unfinished)

    def _go_through(self, order: Order, asides: Asides, explanation: Explanation) -> None:
        heap = [self._entry(line, order) for line in self.state.backlog.lines.values()]
        heapq.heapify(heap)
        while heap:
            first, rank, _, line, placed = heapq.heappop(heap)
            if placed != len(self._placements):  # something was given since, maybe to its customer or its group
                fresh = self._entry(line, order)
                if fresh[:2] > (first, rank):
                    heapq.heappush(heap, fresh)
                    continue
            line.unreached = False
            if self._consider(line, asides, explanation):
                order.given(line.kind)
                if line.requests:
                    heapq.heappush(heap, self._entry(line, order))

    def _entry(self, line: Line, order: Order) -> _Entry:
        """What the last cycle did not reach comes first. (Ranks differ: lines are never compared.)"""
        head = line.head()
        assert head is not None
        return not line.unreached, order.rank(head), head.allocation_id, line, len(self._placements)

    def _consider(self, line: Line, asides: Asides, explanation: Explanation) -> bool:
        """Whether the first of the line has been placed. If not, the line's turn is over in this cycle."""
        request = line.head()
        assert request is not None
        epoch = self.state.epoch(line.kind)
        verdict = line.verdict
        if verdict is None or not verdict.stands(epoch, self.now):
            found = self._look_at(line, request, epoch, asides)
            if not isinstance(found, Blocked):
                self._place(request, found)
                return True
            verdict = line.verdict = found
        self._keep(request, verdict, asides)
        explanation.line_waits(line, verdict)
        return False

    def _look_at(self, line: Line, request: Request, epoch: Epoch, asides: Asides) -> tuple[Part, ...] | Blocked:
        kept = self.state.kept.get(request.allocation_id)
        if kept is not None and any(victim in self.state.holdings for victim in kept.victims):
            return verdicts.preempting(kept, epoch)
        if self._searches >= self.state.settings.searches:
            line.unreached = self._unfinished = True
            return Blocked(Code.NOT_REACHED, "Its turn comes in a moment.", epoch, until=self.now)
        return self._try(request, asides)

    def _try(self, request: Request, asides: Asides) -> tuple[Part, ...] | Blocked:
        epoch = self.state.epoch(request)
        return verdicts.limit(self.state, request, epoch) or self.attempt(request, asides)

    def attempt(self, request: Request, asides: Asides) -> tuple[Part, ...] | Blocked:
        """A place, beside what is kept for those before it; or why there is none, whatever its customer may have."""
        state = self.state
        epoch = state.epoch(request)
        if request.reservation_id is not None:
            return verdicts.in_reservation(state, request, epoch, self.now)
        kept = state.kept.get(request.allocation_id)
        if not state.capacity.fits(request.group, request.demand.gpu_milli, preemptible=request.preemptible):
            return self._preempt(request) or verdicts.group_is_full(state, request, epoch, self._retry())
        parts = self._find(request, asides)
        if parts is not None:
            return parts
        if (preempting := self._preempt(request)) is not None:
            return preempting
        verdict = self._no_place(request)
        if verdict.code in verdicts.MAY_BE_KEPT_FOR and (kept or len(state.kept) < state.settings.kept_places):
            return self._look_ahead(request, verdict)
        return verdict

    def _no_place(self, request: Request) -> Blocked:
        """In figures as of this cycle's first of that demand."""
        epoch = self.state.epoch(request)
        verdict = self._shortages.get(request.demand)
        if verdict is None:
            verdict = verdicts.no_place(self.state, request, epoch, self._retry())
            self._shortages[request.demand] = verdict
        return replace(verdict, epoch=epoch)

    def _find(self, request: Request, asides: Asides) -> tuple[Part, ...] | None:
        """A place beside what is kept for others; or in it, for what is sure to have ended by then."""
        cluster = self.state.cluster
        parts = self._search(request, None)
        if parts is not None or request.limit_s is None:
            return parts
        ends_at = self.now + timedelta(seconds=request.limit_s + self.state.settings.grace_s)
        lifted = asides.free_for(ends_at)
        if not lifted:
            return None
        with cluster.trial():
            asides.lift(lifted)
            return self._search(request, ends_at)

    def _search(self, request: Request, ends_at: datetime | None) -> tuple[Part, ...] | None:
        demand = request.demand
        whose = request.customer_id if demand.shape.milli < MILLI_PER_GPU or demand.apart else None
        key = demand, whose, ends_at
        if key in self._nowhere:
            return None
        self._searches += 1
        parts = self.state.cluster.find(demand, request.customer_id)
        if parts is None:
            self._nowhere.add(key)
        return parts

    def _preempt(self, request: Request) -> Blocked | None:
        state = self.state
        key = request.demand, request.priority, request.preemptible, request.group
        preemption = Preemption(state.cluster, state.capacity, state.holdings)
        if key in self._no_victims:
            return None
        if not preemption.may_find(request):
            self._no_victims.add(key)
            return None
        patient_until = request.queued_at + timedelta(seconds=state.settings.patience_s)
        if self.now < patient_until:
            return verdicts.patient(state.epoch(request), patient_until)
        self._searches += _SEARCHES_OF_A_PREEMPTION
        spared = self._evicted.union(victim for kept in state.kept.values() for victim in kept.victims)
        sacrifice = preemption.search(request, self.now, spared=spared)
        if sacrifice is None:
            self._no_victims.add(key)
            return None
        for victim in sacrifice.victims:
            reason = f"It gives way to a request of priority {request.priority}."
            self._evict(victim, request.allocation_id, reason)
        since = self.now + timedelta(seconds=state.settings.grace_s)
        victims = frozenset(victim.request.allocation_id for victim in sacrifice.victims)
        kept = state.kept[request.allocation_id] = Kept(request, sacrifice.parts, since, True, victims)
        return verdicts.preempting(kept, state.epoch(request))

    def _evict(self, victim: Held, in_favour_of: int, reason: str) -> None:
        number = victim.request.allocation_id
        self._evicted.add(number)
        self._evictions.append(Eviction(number, victim.generation, in_favour_of, reason))

    def _look_ahead(self, request: Request, verdict: Blocked) -> Blocked:
        state = self.state
        if self._ends is None:
            self._ends = in_order(state.holdings.all(), self.now, grace_s=state.settings.grace_s)
        start = earliest_start(state.cluster, request, self._ends, most=state.settings.releases)
        if start is None:
            state.stop_keeping(request.allocation_id)
            return verdict
        state.kept[request.allocation_id] = Kept(request, start.parts, start.at, start.certain)
        return verdicts.with_start(verdict, start)

    def _keep(self, request: Request, verdict: Blocked, asides: Asides) -> None:
        """Those behind it in the order stay away from what is kept for it."""
        kept = self.state.kept.get(request.allocation_id)
        if kept is not None:
            asides.keep(kept)
        if self._keeps_quota(request, verdict, kept):
            self.state.capacity.take(request.group, request.demand.gpu_milli)
            self._quota_aside.append((request.group, request.demand.gpu_milli))

    def _keeps_quota(self, request: Request, verdict: Blocked, kept: Kept | None) -> bool:
        """What victims leave to it is not for others; nor, once it has aged, what its group may use."""
        if (kept is not None and kept.victims) or verdict.code is Code.PREEMPTING:
            return True
        waited_s = (self.now - request.queued_at).total_seconds()
        return verdict.code is Code.CAPACITY_GROUP and waited_s >= self.state.settings.ageing_step_s

    def _place(self, request: Request, parts: tuple[Part, ...]) -> None:
        state = self.state
        state.backlog.remove(request.allocation_id)
        state.said.pop(request.allocation_id, None)
        state.kept.pop(request.allocation_id, None)  # its place is taken now: nothing has become free
        state.holdings.put(Held(request, AllocationState.PLACING, 0, parts, self.now), self.now)
        state.pace.started(request.demand.models, self.now)
        self._placements.append(Placement(request.allocation_id, parts))

    def _retry(self) -> datetime | None:
        """What may be evicted changes with time, as minimum runtimes pass."""
        return self.now + timedelta(seconds=self.state.settings.refresh_s)
