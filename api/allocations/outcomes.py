"""What effects have come to, and what gives way, written down in batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations import devices, groups
from api.allocations.admission import ACTOR
from api.allocations.standing import ask_customer_locks
from api.allocations.transitions import Step, move_all
from api.billing.settlement import Ending, settle_holds
from api.pipeline import Pipeline, pipelined
from scheduler.host_protocol import LeaseEnd
from scheduler.ports import Dropped, Ended, Eviction, Outcome, Placed, PlacementFailed
from scheduler.states import AllocationState, EndReason

_LOCK = text(
    "select a.id, a.state, a.generation, a.run_until, a.active_at is not null as ran, cardinality(a.host_ids) as hosts,"
    " exists (select from hosts h where h.id = any(a.host_ids) and h.device_status = 'lost') as host_lost"
    " from allocations a where a.id = any(:ids) order by a.id for update of a"
)

_Change: TypeAlias = Placed | PlacementFailed | Ended | Eviction
_TRANSITIONS: Mapping[type[_Change], tuple[AllocationState, AllocationState]] = {
    Placed: (AllocationState.PLACING, AllocationState.ACTIVE),
    PlacementFailed: (AllocationState.PLACING, AllocationState.QUEUED),
    Ended: (AllocationState.RELEASING, AllocationState.RELEASED),
    Eviction: (AllocationState.ACTIVE, AllocationState.RELEASING),
}


@dataclass(slots=True)
class _Locked:
    """An allocation; its `state` is moved on with each change that applies to it."""

    allocation_id: int
    state: AllocationState
    generation: int
    run_until: datetime | None
    ran: bool
    hosts: int
    host_lost: bool

    def take(self, change: _Change) -> bool:
        source, target = _TRANSITIONS[type(change)]
        if (self.state, self.generation) != (source, change.generation):
            return False
        self.state = target
        return True

    def step(self, change: _Change, *, reason: str = "", **values: object) -> Step:
        return Step(self.allocation_id, _TRANSITIONS[type(change)][0], self.generation, reason, values)

    def ending(self, ends: Sequence[LeaseEnd]) -> Ending:
        """Where a host has not confirmed, nobody knows the end."""
        known = ends if len(ends) == self.hosts else None
        return Ending(self.allocation_id, self.generation, self.run_until, self.ran, known or None, self.host_lost)


def record(session: Session, outcomes: Sequence[Outcome], *, now: datetime) -> list[bool]:
    """Write outcomes; False for one that changes nothing, as its generation or its state is over."""
    gone = groups.dropped(session, [outcome.group_name for outcome in outcomes if isinstance(outcome, Dropped)])
    changes = [outcome for outcome in outcomes if not isinstance(outcome, Dropped)]
    freeing = [change.allocation_id for change in changes if not isinstance(change, Placed)]
    with pipelined(session) as pipeline:
        locked_at = devices.ask_placement_lock(pipeline) if freeing else lambda: now
        ask_customer_locks(pipeline, freeing)
        locked = _ask_locked(pipeline, [change.allocation_id for change in changes])()
        freed_at = locked_at()
    taken = [locked[change.allocation_id].take(change) for change in changes]
    applied = [change for change, good in zip(changes, taken, strict=True) if good]
    placed = [change for change in applied if isinstance(change, Placed)]
    failed = [change for change in applied if isinstance(change, PlacementFailed)]
    ended = [change for change in applied if isinstance(change, Ended)]
    freed = [change.allocation_id for change in failed] + [change.allocation_id for change in ended]
    with pipelined(session):
        _activate(session, placed, locked)
        devices.vacate(session, freed, at=freed_at)
        _release(session, ended, locked, now)
        _unplace(session, failed, locked)
    endings = [
        *(locked[change.allocation_id].ending(()) for change in failed),
        *(locked[change.allocation_id].ending(change.ends) for change in ended),
    ]
    settle_holds(session, endings, now=now)
    answers = iter(taken)
    return [outcome.group_name in gone if isinstance(outcome, Dropped) else next(answers) for outcome in outcomes]


def evict(session: Session, evictions: Sequence[Eviction]) -> list[bool]:
    """End active allocations that give way; False for those that are not active in that generation."""
    with pipelined(session) as pipeline:
        locked = _ask_locked(pipeline, [eviction.allocation_id for eviction in evictions])()
    taken = [locked[eviction.allocation_id].take(eviction) for eviction in evictions]
    steps = [
        locked[eviction.allocation_id].step(eviction, reason=eviction.reason)
        for eviction, good in zip(evictions, taken, strict=True)
        if good
    ]
    move_all(session, steps, AllocationState.RELEASING, actor=ACTOR, end_reason=EndReason.PREEMPTED)
    return taken


def _ask_locked(pipeline: Pipeline, allocation_ids: Sequence[int]) -> Callable[[], dict[int, _Locked]]:
    rows = pipeline.ask(_LOCK, {"ids": allocation_ids})
    return lambda: {row[0]: _Locked(row[0], AllocationState(row[1]), *row[2:]) for row in rows.all()}


def _activate(session: Session, placed: Sequence[Placed], locked: Mapping[int, _Locked]) -> None:
    if placed:
        groups.mark_reserved(session, [change.allocation_id for change in placed])
        steps = [locked[change.allocation_id].step(change) for change in placed]
        move_all(session, steps, AllocationState.ACTIVE, actor=ACTOR)


def _unplace(session: Session, failed: Sequence[PlacementFailed], locked: Mapping[int, _Locked]) -> None:
    """The groups are to be dropped, and they wait again."""
    if failed:
        groups.abandon(session, [change.allocation_id for change in failed])
        steps = [
            locked[change.allocation_id].step(change, reason=change.reason, not_before=change.retry_at)
            for change in failed
        ]
        move_all(session, steps, AllocationState.QUEUED, actor=ACTOR)


def _release(session: Session, ended: Sequence[Ended], locked: Mapping[int, _Locked], now: datetime) -> None:
    if ended:
        groups.hand_back(session, [change.allocation_id for change in ended], now=now)
        steps = [locked[change.allocation_id].step(change) for change in ended]
        move_all(session, steps, AllocationState.RELEASED, actor=ACTOR)
