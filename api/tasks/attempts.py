"""The life of an attempt: begun by its host, stopped by whatever ends it, and ended once nothing of it runs."""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.tasks import arrays, words
from api.tasks.current import Current
from api.tasks.tables import TaskAttempt, TaskAttemptEvent
from api.tasks.transitions import move, move_attempt
from scheduler.states import AttemptEnd, AttemptState, EndReason, TaskState

_ENDS = {
    EndReason.CANCELLED: AttemptEnd.CANCELLED,
    EndReason.PREEMPTED: AttemptEnd.PREEMPTED,
    EndReason.UNPAID: AttemptEnd.UNPAID,
    EndReason.HOST_LOST: AttemptEnd.HOST_LOST,
    EndReason.EXPIRED: AttemptEnd.HOST_LOST,  # cut off, its lease ran out
}


def begin(session: Session, current: Current, *, actor: str) -> TaskAttempt:
    """The next attempt, under the allocation's generation: the task, which was queued, starts."""
    task, allocation = current.task, current.allocation
    assert allocation is not None
    task.attempts = arrays.number_attempt(session, task.array_id) if task.array_id is not None else task.attempts + 1
    attempt = TaskAttempt(
        task_id=task.id, number=task.attempts, allocation_id=allocation.id, generation=allocation.generation
    )
    session.add(attempt)
    session.flush()
    session.add(TaskAttemptEvent(attempt_id=attempt.id, actor=actor, to_state=AttemptState.STARTING))
    move(session, task, TaskState.STARTING, actor=actor)
    current.attempt = attempt
    return attempt


def run(session: Session, current: Current, *, at: datetime, actor: str) -> None:
    """Its command has begun."""
    task, attempt = current.task, current.attempt
    if attempt is None or attempt.state != AttemptState.STARTING:
        return
    move_attempt(session, attempt, AttemptState.RUNNING, actor=actor, at=at)
    move(session, task, TaskState.RUNNING, actor=actor)
    task.started_at = task.started_at or at


def stop(session: Session, current: Current, *, end: AttemptEnd | None, actor: str, detail: str) -> None:
    """It ends, for a reason of its own or, with None, for its allocation's. The first reason stays."""
    task, attempt = current.task, current.attempt
    if attempt is None or attempt.state not in (AttemptState.STARTING, AttemptState.RUNNING):
        return
    end = end or _end_of(current)
    move_attempt(session, attempt, AttemptState.STOPPING, actor=actor, end=end, detail=detail)
    move(session, task, TaskState.STOPPING, actor=actor, detail=words.of_attempt(attempt))


def end_attempt(session: Session, attempt: TaskAttempt, *, actor: str) -> None:
    """Its hosts have confirmed that nothing of it runs, or are lost."""
    if attempt.end == AttemptEnd.PREEMPTED and not attempt.notice:
        attempt.notice = words.MISSED
    move_attempt(session, attempt, AttemptState.ENDED, actor=actor)


def _had_its_time(allocation: Allocation) -> bool:
    """Whether it has run for as long as quotas allow a lease to."""
    placed_at, ended_at = allocation.placed_at, allocation.releasing_at
    if allocation.limit_s is None or placed_at is None or ended_at is None:
        return False
    return placed_at + timedelta(seconds=allocation.limit_s) <= ended_at


def _end_of(current: Current) -> AttemptEnd:
    """By why its allocation ends."""
    allocation, attempt = current.allocation, current.attempt
    assert allocation is not None and attempt is not None
    reason = EndReason(allocation.end_reason or EndReason.HOST_LOST)
    if reason is EndReason.FAILED:
        # The host ended the lease by itself: it could not start it, or the disk that it may fill was full.
        return AttemptEnd.START_FAILED if attempt.running_at is None else AttemptEnd.DISK_FULL
    if reason is EndReason.EXPIRED and _had_its_time(allocation):
        return AttemptEnd.TIMED_OUT
    return _ENDS.get(reason, AttemptEnd.HOST_LOST)
