"""One decision cycle: every line's first request in order, until nothing more starts or the work has its bound."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime

from scheduler.engine import booked
from scheduler.engine.attempt import Attempts, Waits
from scheduler.engine.backlog import Line
from scheduler.engine.blocked import KEPT, LIMITS, Blocked, Code, Epoch
from scheduler.engine.explanation import Explanation
from scheduler.engine.kept import Asides, Kept, Quota
from scheduler.engine.limits import can_ever_fit, cost_micro, scopes_of
from scheduler.engine.no_place import told
from scheduler.engine.order import Order
from scheduler.engine.state import State
from scheduler.engine.turns import Turns
from scheduler.plan import Plan
from scheduler.ports import Eviction, Placement
from scheduler.quota import Level
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Request

_MAY_BE_KEPT_FOR = frozenset(
    {Code.NO_CAPACITY, Code.BEHIND_OTHERS, Code.RESERVED, Code.BOUND_HOST_BUSY, Code.PREEMPTING}
)


@dataclass(slots=True)
class Cycle:
    """Call `run` once."""

    state: State
    now: datetime
    _order: Order = field(init=False)
    _asides: Asides = field(init=False)
    _attempts: Attempts = field(init=False)
    _placements: list[Placement] = field(default_factory=list)
    _evictions: list[Eviction] = field(default_factory=list)
    _waiting: list[Line] = field(default_factory=list)
    _untold: dict[int, tuple[Line, Request]] = field(default_factory=dict)  # with new verdicts, by id of the object
    _unfinished: bool = False
    _loosened: bool = False  # something is kept no longer from those who come later
    _released: int = 0  # at the beginning

    def __post_init__(self) -> None:
        self._order = Order(self.state, self.now)
        self._asides = Asides(self.state.cluster, self.state.capacity)
        self._attempts = Attempts(self.state, self.now, self._asides)
        self._released = self.state.released

    def run(self) -> Plan:
        state = self.state
        state.backlog.wake(self.now)
        state.end_reservations(self.now)
        self._form_lines()
        for held in booked.in_the_way(state, self.now):
            self._evict(held, None, "It gives way to an advance reservation.")
        unreached = [line for line in state.backlog.lines.values() if line.unreached]
        try:
            if unreached:
                self._go_through({id(line) for line in unreached})
                self._asides.clear()
            self._go_through(None)
            self._tell()
        finally:
            self._asides.clear()
        return Plan(self._placements, self._evictions, unfinished=self._unfinished)

    def explanation(self) -> Explanation:
        """For those who wait, once it has run."""
        return Explanation(self.state, self.now, self._order, self._waiting)

    def _form_lines(self) -> None:
        """Those for whom nothing is cleared any more stand among their equivalents again; and what is kept for one that
        is not the first of its line any more is kept for the first.
        """
        backlog = self.state.backlog
        for request in backlog.alone():
            if not self._is_cleared(request):
                backlog.join(request)
        for number, kept in list(self.state.kept.items()):
            among = backlog.line(number)
            head = among.head() if among is not None else None
            if head is not None and head.allocation_id != number:
                del self.state.kept[number]
                self.state.kept.setdefault(head.allocation_id, replace(kept, request=head))

    def _is_cleared(self, request: Request) -> bool:
        """Whether something has been told to leave a place for it."""
        kept = self.state.kept.get(request.allocation_id)
        return kept is not None and bool(kept.awaits)

    def _set_alone(self, line: Line, request: Request, turns: Turns) -> Line:
        """Those behind it need not wait until its place is clear."""
        alone = self.state.backlog.set_alone(request)
        alone.verdict, line.verdict = line.verdict, None
        if line.requests:
            turns.again(line)
        return alone

    def _go_through(self, only: Set[int] | None) -> None:
        """All lines in order; those of `only` (ids of objects) have a turn, if that is not None, and of the others
        it counts what is kept for them.
        """
        self._keep_what_is_cleared()
        turns = Turns.of(self._order, self.state.backlog.lines.values())
        while (line := turns.next()) is not None:
            request = line.head()
            assert request is not None
            turn = only is None or id(line) in only
            if turn and self._starts(line, request):
                self._order.given(line.kind)
                if line.requests:
                    turns.again(line)
                continue
            if turn and line.kind.alone is None and self._is_cleared(request):
                line = self._set_alone(line, request, turns)
            self._keep(request, line.verdict)
            if only is None:
                self._waiting.append(line)

    def _tell(self) -> None:
        """Say why those wait who have found no place in this cycle."""
        untold = [
            (line, sought, line.verdict)
            for line, sought in self._untold.values()
            if line.requests and line.verdict is not None and not line.verdict.detail
        ]
        state = self.state
        pending = [(sought, verdict) for _, sought, verdict in untold]
        verdicts = told(state, self._asides, pending, released=self._loosened or state.released != self._released)
        for (line, _, _), verdict in zip(untold, verdicts, strict=True):
            line.verdict = verdict

    def _keep_what_is_cleared(self) -> None:
        """Reservations, and what others leave for somebody: that is for nobody else, whoever comes first."""
        booked.keep_devices(self.state, self._asides)
        for kept in self.state.kept.values():
            if kept.awaits:
                self._asides.keep(kept)
                self._keep_quota(kept.request, kept.since, None)

    def _starts(self, line: Line, request: Request) -> bool:
        """Whether the first of the line has been placed. If not, the line has a verdict, and its turn is over."""
        epoch = self.state.epoch(line.kind)
        if line.verdict is not None and self._stands(line.verdict, epoch):
            return False
        line.unreached = self._attempts.searches >= self.state.settings.searches
        if line.unreached:
            self._unfinished = True
            return False
        found = self._attempts.of(request)
        if isinstance(found, Waits):
            self._waits(line, request, found)
            return False
        self._place(request, found)
        return True

    def _waits(self, line: Line, request: Request, waits: Waits) -> None:
        state = self.state
        for victim in waits.victims:
            self._evict(victim, request.allocation_id, _reason(request, victim))
        if waits.kept is None:
            self._stop_keeping(request)
        elif waits.kept != state.kept.get(request.allocation_id):
            self._stop_keeping(request, at=waits.kept.parts)
            state.kept[request.allocation_id] = waits.kept
            self._disturb(waits.kept.parts)
        line.verdict = replace(waits.verdict, epoch=state.epoch(line.kind))  # its own doings do not concern it
        self._untold[id(line)] = line, waits.sought or request

    def _keep(self, request: Request, verdict: Blocked | None) -> None:
        """Those behind it in the order stay away from what is kept for it."""
        kept = self.state.kept.get(request.allocation_id)
        if kept is not None and not self._may_keep(kept, verdict):
            self._stop_keeping(request)
            kept = None
        if kept is not None:
            self._asides.keep(kept)
        if kept is not None or (verdict is not None and self._keeps_quota(request, verdict)):
            self._keep_quota(request, kept.since if kept is not None else None, verdict)

    def _keep_quota(self, request: Request, since: datetime | None, verdict: Blocked | None) -> None:
        """Of the limit alone that stands against it, if one does: what others have of it, it could not use now."""
        lack = verdict.lack if verdict is not None and since is None else None
        if lack is None or lack.scope is None:
            quota = Quota(request, since, scopes_of(self.state, request))
        else:
            quota = Quota(request, since, (lack.scope,), lack.model, grouped=lack.scope.level is Level.CUSTOMER)
        self._asides.keep_quota(quota)

    def _may_keep(self, kept: Kept, verdict: Blocked | None) -> bool:
        if verdict is not None and verdict.code not in _MAY_BE_KEPT_FOR:
            return False
        return bool(kept.awaits) or self._asides.waiting < self.state.settings.kept_places

    def _keeps_quota(self, request: Request, verdict: Blocked) -> bool:
        """What victims leave to it is not for others; nor, once it has aged, what its group or customer may use."""
        if verdict.code is Code.PREEMPTING:
            return True
        if verdict.code not in (Code.CAPACITY_GROUP, Code.QUOTA):
            return False
        waited_s = (self.now - request.queued_at).total_seconds()
        if waited_s < self.state.settings.ageing_step_s or not self._attempts.is_possible(request.demand):
            return False
        if verdict.code is Code.QUOTA:
            return verdict.lack is not None and can_ever_fit(self.state, request)
        most = self.state.capacity.most(request.group)
        return most is None or request.demand.gpu_milli <= most

    def _stop_keeping(self, request: Request, *, at: Sequence[Part] = ()) -> None:
        """What was kept for it is for others again, unless it is just these places that it has or keeps now."""
        kept = self.state.kept.pop(request.allocation_id, None)
        self._asides.drop(request)
        if kept is None or kept.parts == at:
            return
        if kept.awaits:  # that stood against those before it too
            self.state.released += 1
            self._unfinished = True
        self._loosened = True

    def _stands(self, verdict: Blocked, epoch: Epoch) -> bool:
        """Nothing that it rests on has changed, nor what those before keep."""
        return verdict.stands(epoch, self.now) and not (self._loosened and verdict.code in KEPT)

    def _place(self, request: Request, parts: tuple[Part, ...]) -> None:
        state = self.state
        state.backlog.remove(request.allocation_id)
        state.said.pop(request.allocation_id, None)
        self._stop_keeping(request, at=parts)
        state.holdings.put(Held(request, AllocationState.PLACING, 0, parts, self.now), self.now)
        state.pace.started(request.demand.rivals, self.now)
        state.spend(request.customer_id, cost_micro(state, request, parts))
        self._placements.append(Placement(request.allocation_id, parts))
        self._disturb(parts)

    def _disturb(self, parts: tuple[Part, ...]) -> None:
        """Those who come later, and have a place kept on the same hosts, need another look at it."""
        for kept in self.state.kept.values():
            if not self._asides.has(kept.request) and kept.touches(parts):
                line = self.state.backlog.line(kept.request.allocation_id)
                if line is not None and line.verdict is not None and line.verdict.code not in LIMITS:
                    line.verdict = None

    def _evict(self, victim: Held, in_favour_of: int | None, reason: str) -> None:
        self._evictions.append(Eviction(victim.request.allocation_id, victim.generation, in_favour_of, reason))
        self.state.holdings.put(replace(victim, state=AllocationState.RELEASING), self.now)
        self._attempts.evicted()


def _reason(request: Request, victim: Held) -> str:
    if victim.request.priority > request.priority:
        return f"It gives back what capacity group {request.group} owns, and needs now."
    return f"It gives way to a request of priority {request.priority}."
