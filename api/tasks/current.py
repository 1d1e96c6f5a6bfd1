"""A task with the allocation that it waits for or runs in, and its attempt there, locked in the order of locks."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.errors import Conflict
from api.tasks.tables import Task, TaskAttempt


@dataclass(slots=True)
class Current:
    """`attempt` is the one of the allocation's generation, if it has begun: it may have ended."""

    task: Task
    allocation: Allocation | None
    attempt: TaskAttempt | None


def lock(session: Session, task_id: int) -> Current:
    """
    Raises:
        Conflict: `task_changed`, it was queued at this very moment.
    """
    allocation_id = session.scalar(select(Task.allocation_id).where(Task.id == task_id))
    allocation = None
    if allocation_id is not None:
        allocation = session.get_one(Allocation, allocation_id, with_for_update=True, populate_existing=True)
    task = session.get_one(Task, task_id, with_for_update=True, populate_existing=True)
    if task.allocation_id != allocation_id:
        raise Conflict("It was queued at this very moment; try again.", code="task_changed")
    return Current(task, allocation, attempt_of(session, allocation))


def lock_of_allocation(session: Session, allocation: Allocation) -> Current | None:
    """Of the task whose allocation this is, which the caller has locked; None if it is no task's any more."""
    query = select(Task).where(Task.allocation_id == allocation.id).with_for_update()
    task = session.scalar(query.execution_options(populate_existing=True))
    return None if task is None else Current(task, allocation, attempt_of(session, allocation))


def attempt_of(session: Session, allocation: Allocation | None) -> TaskAttempt | None:
    if allocation is None:
        return None
    query = select(TaskAttempt).where(
        TaskAttempt.allocation_id == allocation.id, TaskAttempt.generation == allocation.generation
    )
    return session.scalar(query.with_for_update().execution_options(populate_existing=True))
