"""Which log a request means: of a task that whoever asks may see, of one of its attempts, of one of its nodes."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, or_, select

from api.allocations.tables import Allocation
from api.db import Database
from api.errors import NotFound
from api.logs.reading import LogRef
from api.principal import Principal, Role
from api.reading import Statement
from api.tasks.repository import attempt_of
from api.tasks.tables import Task, TaskAttempt
from scheduler.states import TASK, TaskState

VISIBLE = (
    Task.uid == bindparam("task"),
    or_(bindparam("customer") == 0, Task.customer_id == bindparam("customer")),
    or_(bindparam("user") == 0, Task.user_id == bindparam("user")),
)
"""Conditions whose parameters `values_of` gives."""

_FOUND = Statement(
    select(Task.state, TaskAttempt.id, TaskAttempt.uid, TaskAttempt.number, Allocation.nodes)
    .select_from(Task)
    .outerjoin(
        TaskAttempt,
        attempt_of(Task.id) & or_(bindparam("attempt") == 0, TaskAttempt.number == bindparam("attempt")),
    )
    .outerjoin(Allocation, Allocation.id == TaskAttempt.allocation_id)
    .where(Task.array_id.is_(None))
    .where(*VISIBLE)
    .order_by(TaskAttempt.number.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """As a request names it. Without an attempt the newest is meant."""

    task_uid: UUID
    attempt: int | None
    rank: int


@dataclass(frozen=True, slots=True)
class NoAttempt:
    """The task has not been tried yet. `over`: nor will it be."""

    over: bool


async def find_log(database: Database, principal: Principal, wanted: Wanted) -> LogRef | NoAttempt:
    """
    Raises:
        NotFound: no such task, attempt or rank, or not for this principal to see.
    """
    rows = await database.read(_FOUND, values_of(principal, wanted.task_uid) | {"attempt": wanted.attempt or 0})
    if not rows:
        raise NotFound("There is no such task.")
    state, attempt_id, attempt_uid, number, nodes = rows[0]
    if attempt_id is None:
        if wanted.attempt is not None:
            raise NotFound(f"The task has no attempt {wanted.attempt}.")
        return NoAttempt(over=not TASK[TaskState(state)])
    if wanted.rank >= nodes:
        raise NotFound(f"The attempt has no node of rank {wanted.rank}.")
    return LogRef(attempt_id, attempt_uid, number, wanted.rank)


def values_of(principal: Principal, task_uid: UUID) -> dict[str, Any]:  # Any: of any column's type
    """Of the parameters by which a statement finds the task if `principal` may see it."""
    return {
        "task": task_uid,
        "customer": 0 if principal.role is Role.ADMIN else principal.tenant_id,
        "user": principal.user_id if principal.role is Role.MEMBER else 0,
    }
