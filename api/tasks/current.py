"""A task with the allocation that it waits for or runs in, and its attempt there, locked in the order of locks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import ColumnElement, select, union_all
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.errors import Conflict
from api.tasks.tables import Task, TaskAttempt
from api.tasks.transitions import children_of

Row = TypeVar("Row", Allocation, Task, TaskAttempt)


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


def lock_all(session: Session, task_ids: Sequence[int]) -> list[Current]:
    """Those of these tasks that have an allocation, by their ids, with each kind of row locked in one statement.

    So are those that wait for them, whose ids are between theirs. A task is left out that changes at this very moment.
    """
    having = select(Task.id, Task.allocation_id).where(Task.id.in_(task_ids), Task.allocation_id.is_not(None))
    allocation_ids = {row.id: row.allocation_id for row in session.execute(having)}
    allocations = _locked(session, Allocation, Allocation.id.in_(allocation_ids.values()))
    wanted = union_all(select(Task.id).where(Task.id.in_(list(allocation_ids))), children_of(list(allocation_ids)))
    tasks = _locked(session, Task, Task.id.in_(wanted))
    attempts = _locked(session, TaskAttempt, TaskAttempt.allocation_id.in_(allocation_ids.values()))
    by_lease = {(attempt.allocation_id, attempt.generation): attempt for attempt in attempts.values()}
    found = []
    for task_id, allocation_id in sorted(allocation_ids.items()):
        task, allocation = tasks[task_id], allocations[allocation_id]
        if task.allocation_id == allocation_id:
            found.append(Current(task, allocation, by_lease.get((allocation.id, allocation.generation))))
    return found


def _locked(session: Session, table: type[Row], wanted: ColumnElement[bool]) -> dict[int, Row]:
    """By their ids, and locked in that order."""
    query = select(table).where(wanted).order_by(table.id).with_for_update()
    return {row.id: row for row in session.scalars(query.execution_options(populate_existing=True))}


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
