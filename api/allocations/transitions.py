"""Moving an allocation along its state machine: the only code that assigns its state."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationEvent
from api.clock import utc_now
from api.transition import apply_state
from scheduler.states import ALLOCATION, AllocationState, EndReason

CHANNEL = "allocations"

_STAMPS = {
    AllocationState.PLACING: "placed_at",
    AllocationState.ACTIVE: "active_at",
    AllocationState.RELEASING: "releasing_at",
    AllocationState.RELEASED: "released_at",
}


def move(
    session: Session,
    allocation: Allocation,
    target: AllocationState,
    *,
    actor: str,
    reason: str = "",
    end_reason: EndReason | None = None,
) -> None:
    """Apply a transition to a row that the caller has locked (`with_for_update`), and notify the controller at commit.

    `end_reason` is required for `releasing`, and for `released` straight from `queued`; the first one given stays.

    Raises:
        scheduler.states.TransitionError: the transition table has no such step.
    """
    if end_reason is not None and allocation.end_reason is None:
        allocation.end_reason = end_reason
        allocation.end_detail = reason or None
    if target is AllocationState.PLACING:
        allocation.generation += 1
    if target is AllocationState.QUEUED:
        allocation.host_id = None
        allocation.host_ids = []
        allocation.run_until = None
    if stamp := _STAMPS.get(target):
        setattr(allocation, stamp, utc_now())
    event = AllocationEvent(allocation_id=allocation.id, actor=actor, reason=reason)
    apply_state(session, allocation, column="state", table=ALLOCATION, target=target, event=event)
    notify(session)


def notify(session: Session) -> None:
    """Wake the controller when this transaction commits. A hint: polling is the truth."""
    session.execute(text("select pg_notify(:channel, '')"), {"channel": CHANNEL})
