"""Moving allocations along their state machine: the only code that assigns their state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationEvent
from api.bulk import document, update_sql
from api.clock import utc_now
from api.pipeline import send
from api.transition import apply_state
from scheduler.states import ALLOCATION, AllocationState, EndReason, check_transition

CHANNEL = "allocations"
_NOTIFY = text("select pg_notify(:channel, '')")

_STAMPS = {
    AllocationState.PLACING: "placed_at",
    AllocationState.ACTIVE: "active_at",
    AllocationState.RELEASING: "releasing_at",
    AllocationState.RELEASED: "released_at",
}

_OF_EVENTS = ("id", "from_state", "reason")


@dataclass(frozen=True, slots=True)
class Step:
    """One allocation's part in a batch of transitions, as it was locked. `values` are columns that change with it."""

    allocation_id: int
    current: AllocationState
    generation: int
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


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
    for column, value in _values(target, allocation.generation, utc_now()).items():
        setattr(allocation, column, value)
    event = AllocationEvent(allocation_id=allocation.id, actor=actor, reason=reason)
    apply_state(session, allocation, column="state", table=ALLOCATION, target=target, event=event)
    notify(session)


def move_all(
    session: Session,
    steps: Sequence[Step],
    target: AllocationState,
    *,
    actor: str,
    end_reason: EndReason | None = None,
) -> None:
    """The same for many in one statement, with their events.

    All steps name the same columns in `values`. `end_reason` is for what has none yet.
    """
    if not steps:
        return
    now, rows = utc_now(), []
    for step in steps:
        check_transition(ALLOCATION, current=step.current, target=target)
        row: dict[str, Any] = {
            "id": step.allocation_id,
            "from_state": step.current,
            "reason": step.reason,
            "state": target,
            **_values(target, step.generation, now),
            **step.values,
        }
        if end_reason is not None:
            row |= {"end_reason": end_reason, "end_detail": step.reason or None}
        rows.append(row)
    columns = tuple(name for name in rows[0] if name not in _OF_EVENTS)
    keys = [step.allocation_id for step in steps]
    send(session, _move_statement(columns), {"rows": document(rows), "keys": keys, "actor": actor})
    notify(session)


@lru_cache(maxsize=64)
def _move_statement(columns: tuple[str, ...]) -> TextClause:
    update = update_sql(Allocation, ("id",), columns, from_state="text", reason="text")
    return text(
        f"with moved as ({update} returning t.id, r.from_state, t.state, r.reason)"
        " insert into allocation_events (allocation_id, actor, from_state, to_state, reason)"
        " select id, :actor, from_state, state, reason from moved"
    )


def _values(target: AllocationState, generation: int, now: datetime) -> dict[str, Any]:
    """The columns that go with a state."""
    values: dict[str, Any] = {}
    if stamp := _STAMPS.get(target):
        values[stamp] = now
    if target is AllocationState.PLACING:
        values["generation"] = generation + 1
    if target is AllocationState.QUEUED:
        values |= {"host_id": None, "host_ids": [], "run_until": None}
    return values


def notify(session: Session) -> None:
    """Wake the controller when this transaction commits. A hint: polling is the truth."""
    send(session, _NOTIFY, {"channel": CHANNEL})
