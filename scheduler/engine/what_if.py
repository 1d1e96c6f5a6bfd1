"""When and where a request would start, without queueing it: a turn of a cycle that leaves nothing behind."""

from datetime import datetime

from scheduler.engine import booked
from scheduler.engine.attempt import Attempts, Found, Waits
from scheduler.engine.explanation import Ahead
from scheduler.engine.kept import Asides, Quota
from scheduler.engine.limits import scopes_of
from scheduler.engine.no_place import told
from scheduler.engine.order import Order
from scheduler.engine.state import State
from scheduler.plan_protocol import PlanAnswer, When
from scheduler.views import Request


def what_if(state: State, request: Request, now: datetime) -> PlanAnswer:
    """What the next cycle would do with it. The customer's own limits are left out."""
    order = Order(state, now)
    found = _attempt(state, order, request, now)
    if not isinstance(found, Waits):
        return PlanAnswer(When.NOW, None, found)
    turn, ahead = order.turn(request), Ahead()
    for line in state.backlog.lines.values():
        head = line.head()
        if head is not None and order.turn(head) < turn:
            ahead.add(state.models_of_line(line), len(line.requests))
    position, pace_s = ahead.of(state.models(request.demand)) + 1, state.pace.of(request.demand.rivals)
    reason = found.verdict.reason(position, first=found.verdict.eta is not None, pace_s=pace_s, now=now)
    if not _ever(state, request):
        return PlanAnswer(When.NEVER, reason)
    parts = found.kept.parts if found.kept is not None else ()
    return PlanAnswer(When.UNKNOWN if reason.eta is None else When.LATER, reason, parts)


def _attempt(state: State, order: Order, request: Request, now: datetime) -> Found | Waits:
    """Beside what is kept for those who come before it."""
    asides, turn = Asides(state.cluster, state.capacity), order.turn(request)
    try:
        booked.keep_devices(state, asides)
        for kept in state.kept.values():
            if kept.awaits or order.turn(kept.request) < turn:
                asides.keep(kept)
                asides.keep_quota(Quota(kept.request, kept.since, scopes_of(state, kept.request)))
        found = Attempts(state, now, asides).of(request, limits=False)
        if isinstance(found, Waits) and not found.verdict.detail:
            (verdict,) = told(state, asides, [(request, found.verdict)])
            return Waits(verdict, found.kept)
        return found
    finally:
        asides.clear()


def _ever(state: State, request: Request) -> bool:
    most = state.capacity.most(request.group)
    within_group = most is None or request.demand.gpu_milli <= most
    return within_group and state.cluster.could_ever(request.demand)
