"""Moving tasks and their attempts along their state machines: the only code that assigns their states."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from api.allocations.transitions import notify
from api.clock import utc_now
from api.tasks.tables import Task, TaskAttempt, TaskAttemptEvent, TaskDependency, TaskEvent
from api.transition import apply_state
from scheduler.states import ATTEMPT, TASK, AttemptEnd, AttemptState, TaskState


def move(session: Session, task: Task, target: TaskState, *, actor: str, detail: str = "") -> None:
    """Apply a transition to a row that the caller has locked. `detail` is why, in words for its owner.

    Whoever ends a task calls `wake_children` in the same transaction. A worker makes its array due, whose row comes
    after its workers' in the order of locks.

    Raises:
        scheduler.states.TransitionError: the transition table has no such step.
    """
    event = TaskEvent(task_id=task.id, actor=actor, reason=detail)
    apply_state(session, task, column="state", table=TASK, target=target, event=event)
    task.detail = detail
    if not TASK[target]:
        task.ended_at = utc_now()
    if task.array_id is not None:
        session.execute(update(Task).where(Task.id == task.array_id).values(due_at=utc_now()))
        notify(session)


def move_attempt(
    session: Session,
    attempt: TaskAttempt,
    target: AttemptState,
    *,
    actor: str,
    end: AttemptEnd | None = None,
    detail: str = "",
    at: datetime | None = None,
) -> None:
    """The same for an attempt. `end` is required for `stopping`; `at`: when it happened, now if nobody said.

    Raises:
        scheduler.states.TransitionError: the transition table has no such step.
    """
    event = TaskAttemptEvent(attempt_id=attempt.id, actor=actor, reason=detail)
    apply_state(session, attempt, column="state", table=ATTEMPT, target=target, event=event)
    at = at or utc_now()
    match target:
        case AttemptState.RUNNING:
            attempt.running_at = at
        case AttemptState.STOPPING:
            attempt.end, attempt.detail, attempt.stopping_at = end, detail, at
        case AttemptState.ENDED:
            attempt.ended_at = at


def wake_children(session: Session, tasks: Iterable[Task]) -> None:
    """Make those due that wait for tasks which have ended: their rows are locked, in the order of ids."""
    ended = [task.id for task in tasks if not TASK[TaskState(task.state)]]
    if not ended:
        return
    waiting = select(Task.id).where(Task.id.in_(children_of(ended)), Task.state == TaskState.BLOCKED)
    if children := session.scalars(waiting.order_by(Task.id).with_for_update()).all():
        session.execute(update(Task).where(Task.id.in_(children)).values(due_at=utc_now()))
        notify(session)


def children_of(task_ids: Sequence[int]) -> Select[int]:
    """The ids of those that wait for these, or have waited."""
    return select(TaskDependency.task_id).where(TaskDependency.parent_id.in_(task_ids))
