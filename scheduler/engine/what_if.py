"""When and where a request would start, without queueing it: a turn of a cycle that leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from scheduler.engine import booked
from scheduler.engine.blocked import Blocked
from scheduler.engine.cycle import Cycle
from scheduler.engine.explanation import Ahead
from scheduler.engine.kept import Asides
from scheduler.engine.order import Order
from scheduler.engine.state import State
from scheduler.plan_protocol import PlanAnswer, When
from scheduler.views import Request


def what_if(state: State, request: Request, now: datetime) -> PlanAnswer:
    """What the next cycle would do with it. The customer's own limits are left out."""
    order = Order(state, now)
    rank = order.rank(request)
    ahead = Ahead()
    with _nothing_left_behind(state):
        asides = Asides(state.cluster)
        try:
            booked.keep_devices(state, asides, now)
            for kept in state.kept.values():
                if order.rank(kept.request) < rank:
                    asides.keep(kept)
            found = Cycle(state, now).attempt(request, asides)
        finally:
            asides.clear()
        kept_place = state.kept.get(request.allocation_id)
    if not isinstance(found, Blocked):
        return PlanAnswer(When.NOW, None, found)
    for line in state.backlog.lines.values():
        head = line.head()
        if head is not None and order.rank(head) < rank:
            ahead.add(state.models_of_line(line), len(line.requests))
    pace_s = state.pace.of(request.demand.models)
    reason = found.reason(
        ahead.of(state.models(request.demand)) + 1, first=found.eta is not None, pace_s=pace_s, now=now
    )
    parts = kept_place.parts if kept_place is not None else ()
    if not _ever(state, request):
        return PlanAnswer(When.NEVER, reason)
    return PlanAnswer(When.UNKNOWN if reason.eta is None else When.LATER, reason, parts)


def _ever(state: State, request: Request) -> bool:
    most = state.capacity.most(request.group)
    within_group = most is None or request.demand.gpu_milli <= most
    return within_group and state.cluster.could_ever(request.demand)


@contextmanager
def _nothing_left_behind(state: State) -> Iterator[None]:
    kept, freed = dict(state.kept), state.holdings.freed
    try:
        yield
    finally:
        state.kept, state.holdings.freed = kept, freed
