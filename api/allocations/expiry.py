"""Enforced ends: a request's own time limit, and the end of the reservation that it runs in.

No lease is renewed beyond them, so that a host which is cut off ends what it runs in time too. The limit is counted
from the placing: that is what others who wait for its devices are told.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations.tables import HOLDS, WAITS, Allocation
from api.allocations.transitions import Step, move_all
from api.reservations.tables import Reservation
from scheduler.states import AllocationState, EndReason

ACTOR = "controller"
SWEEP_LIMIT = 500

_LIMIT = "its time limit has passed"
_RESERVATION = "its reservation is over"
_OVER = text(
    "select a.id, a.state, a.generation, a.placed_at + make_interval(secs => a.limit_s) <= :now as limit_passed"
    " from allocations a left join reservations r on r.id = a.reservation_id"
    f" where {HOLDS} and a.state <> 'releasing'"
    " and (a.placed_at + make_interval(secs => a.limit_s) <= :now or r.ends_at <= :now)"
    " order by a.id limit :most for update of a skip locked"
)
_TOO_LATE = text(
    "select a.id, a.state, a.generation from allocations a join reservations r on r.id = a.reservation_id"
    f" where {WAITS} and (r.ends_at <= :now or r.state = 'cancelled')"
    " order by a.id limit :most for update of a skip locked"
)


@dataclass(frozen=True, slots=True)
class EnforcedEnd:
    at: datetime
    reason: str


def enforced_end(session: Session, allocation: Allocation) -> EnforcedEnd | None:
    """When a placed allocation is ended, whatever happens, and why; None if it has no such limit."""
    ends = []
    if allocation.limit_s is not None and allocation.placed_at is not None:
        ends.append(EnforcedEnd(allocation.placed_at + timedelta(seconds=allocation.limit_s), _LIMIT))
    if allocation.reservation_id is not None:
        ends.append(EnforcedEnd(session.get_one(Reservation, allocation.reservation_id).ends_at, _RESERVATION))
    return min(ends, key=lambda end: end.at, default=None)


def end_expired(session: Session, now: datetime) -> int:
    """Ask for the end of what has run for as long as it may, and of what waits for a reservation that is over.

    At most SWEEP_LIMIT of each. Answers how many. What somebody else has locked is looked at again the next time.
    """
    over = session.execute(_OVER, {"now": now, "most": SWEEP_LIMIT}).all()
    late = session.execute(_TOO_LATE, {"now": now, "most": SWEEP_LIMIT}).all()
    ending = [
        Step(row.id, AllocationState(row.state), row.generation, _LIMIT if row.limit_passed else _RESERVATION)
        for row in over
    ]
    gone = [Step(row.id, AllocationState.QUEUED, row.generation, _RESERVATION, {"wait_reason": None}) for row in late]
    move_all(session, ending, AllocationState.RELEASING, actor=ACTOR, end_reason=EndReason.EXPIRED)
    move_all(session, gone, AllocationState.RELEASED, actor=ACTOR, end_reason=EndReason.EXPIRED)
    return len(over) + len(late)
