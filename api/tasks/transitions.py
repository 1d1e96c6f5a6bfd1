"""Moving tasks and their attempts along their state machines: the only code that assigns their states."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.allocations.transitions import notify
from api.clock import utc_now
from api.tasks.tables import Task, TaskAttempt, TaskAttemptEvent, TaskDependency, TaskEvent
from api.transition import apply_state
from scheduler.states import ATTEMPT, TASK, AttemptEnd, AttemptState, TaskState


def move(session: Session, task: Task, target: TaskState, *, actor: str, detail: str = "") -> None:
    """Apply a transition to a row that the caller has locked. `detail` is why, in words for its owner.

    A task that ends makes those due that wait for it: their rows are locked, which are below it in the order of ids.
    A worker makes its array due, whose row comes after its workers' in the order of locks.

    Raises:
        scheduler.states.TransitionError: the transition table has no such step.
    """
    event = TaskEvent(task_id=task.id, actor=actor, reason=detail)
    apply_state(session, task, column="state", table=TASK, target=target, event=event)
    task.detail = detail
    if not TASK[target]:
        task.ended_at = utc_now()
        _wake_children(session, task, now=task.ended_at)
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


def _wake_children(session: Session, task: Task, *, now: datetime) -> None:
    waiting = (
        select(Task.id)
        .join(TaskDependency, TaskDependency.task_id == Task.id)
        .where(TaskDependency.parent_id == task.id, Task.state == TaskState.BLOCKED)
        .order_by(Task.id)
        .with_for_update(of=Task)
    )
    if children := session.scalars(waiting).all():
        session.execute(update(Task).where(Task.id.in_(children)).values(due_at=now))
        notify(session)
