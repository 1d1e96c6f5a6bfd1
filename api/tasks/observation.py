"""What hosts report of attempts, turned into where tasks are. What they report is bounded here.

A report is told again in each heartbeat: `news` finds those that say something new, without locks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, any_, select
from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.allocations.transitions import notify
from api.clock import from_ms, to_ms
from api.ids import parse_uid
from api.tasks import attempts, gangs, words
from api.tasks.current import Current, lock_of_allocation
from api.tasks.settling import conclude
from api.tasks.tables import Task, TaskAttempt
from api.tasks.transitions import wake_children
from scheduler.host_protocol import AttemptPhase, AttemptReport, TaskProgress
from scheduler.states import AllocationState, AttemptEnd, AttemptState, EndReason

MAX_TEXT = 500
LEADER = 0
"""The node of a gang whose word on phases and progress is the task's; what ends it, each may say."""
_BY_ITSELF = frozenset(AttemptEnd) - {AttemptEnd.PREEMPTED, AttemptEnd.CANCELLED, AttemptEnd.UNPAID}
"""The ends that a host may report: the others are the platform's own decisions."""
_OPEN = (AttemptState.STARTING, AttemptState.RUNNING)
_GIVES_WAY = (AttemptEnd.PREEMPTED, AttemptEnd.CANCELLED)


@dataclass(frozen=True, slots=True)
class Seen:
    """A report, bounded: what it says can be kept."""

    allocation_uid: str
    generation: int
    phase: AttemptPhase
    detail: str
    running_at: datetime | None
    ended_at: datetime | None
    end: AttemptEnd | None
    exit_code: int | None
    signal: int | None
    limit_hit: str | None
    gone: bool
    progress: dict[str, Any] | None  # as `Task.progress`
    notice: str
    checkpoint_at: datetime | None


def see(report: AttemptReport, *, now: datetime) -> Seen:
    """Texts are cut, numbers out of range are unknown, and nothing has happened later than `now`."""
    ended = report.phase is AttemptPhase.ENDED
    return Seen(
        allocation_uid=report.allocation_uid,
        generation=report.generation,
        phase=report.phase,
        detail=_text(report.detail),
        running_at=_moment(report.running_at_ms, now),
        ended_at=_moment(report.ended_at_ms, now) if ended else None,
        end=next((end for end in _BY_ITSELF if end == report.end), None) if ended else None,
        exit_code=_within(report.exit_code, 0, 255),
        signal=_within(report.signal, 1, 64),
        limit_hit=_text(report.limit_hit) if report.limit_hit else None,
        gone=ended and report.gone,
        progress=_progress(report.progress, now),
        notice=_text(report.notice),
        checkpoint_at=_moment(report.checkpoint_at_ms, now),
    )


def news(session: Session, *, host_id: int, reports: Sequence[AttemptReport], now: datetime) -> list[Seen]:
    """Those that may change something: a cheap look without locks, since most reports say nothing new."""
    if not reports:
        return []
    query = (
        select(
            Allocation.uid, Allocation.generation, Allocation.checkpoint_at, TaskAttempt.state, TaskAttempt.phase,
            TaskAttempt.detail, TaskAttempt.exit_code, TaskAttempt.signal, TaskAttempt.notice, Task.progress,
            TaskAttempt.ranks_done, Allocation.host_ids,
        )
        .join(TaskAttempt, TaskAttempt.allocation_id == Allocation.id)
        .join(Task, Task.allocation_id == Allocation.id)
        .where(
            Allocation.uid.in_([parse_uid(report.allocation_uid) for report in reports]),
            any_(Allocation.host_ids) == host_id,
            TaskAttempt.generation == Allocation.generation,
            TaskAttempt.state != AttemptState.ENDED,
        )
    )  # fmt: skip
    known = {(str(row.uid), row.generation): row for row in session.execute(query)}
    seen = [see(report, now=now) for report in reports]
    return [
        each
        for each in seen
        if (row := known.get((each.allocation_uid, each.generation)))
        and _is_news(each, row, rank=row.host_ids.index(host_id))
    ]


def take(session: Session, *, host_id: int, seen: Seen, actor: str) -> None:
    """Take a report of the current generation over; any other changes nothing (invariant I4)."""
    query = select(Allocation).where(Allocation.uid == parse_uid(seen.allocation_uid)).with_for_update()
    allocation = session.scalar(query)
    if allocation is None or allocation.generation != seen.generation or host_id not in allocation.host_ids:
        return
    current = lock_of_allocation(session, allocation)
    if current is None or current.attempt is None or current.attempt.state == AttemptState.ENDED:
        return
    rank = allocation.host_ids.index(host_id)
    if rank == LEADER:
        _note(session, current, seen)
        if seen.running_at is not None and current.attempt.state == AttemptState.STARTING:
            attempts.run(session, current, at=seen.running_at, actor=actor)
    if seen.phase is AttemptPhase.ENDED:
        _ended(session, current, seen, rank, actor=actor)
    elif current.attempt.state in _OPEN and rank == LEADER:
        current.attempt.phase, current.attempt.detail = seen.phase, seen.detail


def _is_news(seen: Seen, row: Row[Any], *, rank: int) -> bool:
    if rank != LEADER:
        return seen.phase is AttemptPhase.ENDED and row.state in _OPEN and rank not in row.ranks_done
    if seen.phase is AttemptPhase.ENDED and rank in row.ranks_done:
        ended = False
    elif seen.phase is AttemptPhase.ENDED:
        ended = row.state in _OPEN or (row.exit_code, row.signal) != (seen.exit_code, seen.signal)
    else:
        ended = row.state in _OPEN and (row.phase, row.detail) != (seen.phase, seen.detail)
    noted = seen.notice not in ("", row.notice) or (seen.progress is not None and seen.progress != row.progress)
    safer = seen.checkpoint_at is not None and (row.checkpoint_at is None or seen.checkpoint_at > row.checkpoint_at)
    return ended or noted or safer


def _note(session: Session, current: Current, seen: Seen) -> None:
    task, allocation, attempt = current.task, current.allocation, current.attempt
    assert allocation is not None and attempt is not None
    if seen.notice:
        attempt.notice = seen.notice
    if seen.progress is not None and seen.progress != task.progress:
        task.progress = seen.progress
    safe_until = seen.checkpoint_at
    if safe_until is not None and (allocation.checkpoint_at is None or safe_until > allocation.checkpoint_at):
        allocation.checkpoint_at = safe_until
        notify(session)


def _ended(session: Session, current: Current, seen: Seen, rank: int, *, actor: str) -> None:
    allocation, attempt = current.allocation, current.attempt
    assert allocation is not None and attempt is not None
    nodes = len(allocation.host_ids)
    succeeds = seen.end is AttemptEnd.EXITED and seen.exit_code == 0 and allocation.state == AllocationState.ACTIVE
    if attempt.state in _OPEN and succeeds and not gangs.succeeded_everywhere(attempt, rank, nodes=nodes):
        return
    if attempt.state == AttemptState.STOPPING and nodes > 1:
        return  # the node that ended first is why the others do
    attempt.exit_code, attempt.signal = seen.exit_code, seen.signal
    attempt.limit_hit = seen.limit_hit
    end = _end_of(current, seen)
    if attempt.state == AttemptState.STOPPING:
        if end is not None and attempt.end in _GIVES_WAY:
            attempt.end, attempt.detail = end, seen.detail  # it had ended before it could hear that it has to
        return
    attempt.phase = seen.phase
    if allocation.state != AllocationState.ACTIVE:
        attempts.stop(session, current, end=end, actor=actor, detail=allocation.end_detail or "")
        return
    attempt.ended_rank = rank if nodes > 1 and not succeeds else None
    attempts.stop(session, current, end=end, actor=actor, detail=seen.detail)
    succeeded = attempt.end == AttemptEnd.EXITED and seen.exit_code == 0
    reason, detail = EndReason.COMPLETED if succeeded else EndReason.FAILED, words.of_attempt(attempt)
    if seen.gone and nodes == 1 and current.task.array_id is None:
        conclude(session, current.task, attempt, actor=actor)
        wake_children(session, [current.task])
        session.flush()  # before its allocation's end, which makes due what has not ended
    request_end(session, allocation, end_reason=reason, actor=actor, reason=detail)


def _end_of(current: Current, seen: Seen) -> AttemptEnd | None:
    """The end that the report proves; None for one that its allocation's end has brought about."""
    allocation, attempt = current.allocation, current.attempt
    assert allocation is not None and attempt is not None
    unknown = AttemptEnd.EXITED if attempt.running_at is not None else AttemptEnd.START_FAILED
    if allocation.state == AllocationState.ACTIVE:
        return seen.end or unknown
    if seen.notice or seen.ended_at is None or allocation.releasing_at is None:
        return None
    return seen.end if seen.ended_at <= allocation.releasing_at else None


def _text(text: str) -> str:
    """Without what a text of the database can't hold."""
    return text[:MAX_TEXT].replace("\0", "")


def _within(number: int | None, low: int, high: int) -> int | None:
    return number if number is not None and low <= number <= high else None


def _moment(at_ms: int | None, now: datetime) -> datetime | None:
    return None if at_ms is None else from_ms(min(max(at_ms, 0), to_ms(now)))


def _progress(progress: TaskProgress | None, now: datetime) -> dict[str, Any] | None:  # Any: JSON
    if progress is None:
        return None
    fraction = progress.fraction
    if fraction is not None:
        fraction = min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else None
    at = from_ms(min(max(progress.at_ms, 0), to_ms(now)))
    return {"fraction": fraction, "line": _text(progress.line), "at": at.isoformat()}
