"""Which log a request means: of a task that whoever asks may see, of one of its attempts, of one of its nodes."""

from collections.abc import Mapping
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
from api.tasks.tables import Task, TaskAttempt
from scheduler.states import TASK, TaskState

_FOUND = Statement(
    select(Task.state, TaskAttempt.id, TaskAttempt.uid, TaskAttempt.number, Allocation.nodes)
    .outerjoin(
        TaskAttempt,
        (TaskAttempt.task_id == Task.id) & or_(bindparam("attempt") == 0, TaskAttempt.number == bindparam("attempt")),
    )
    .outerjoin(Allocation, Allocation.id == TaskAttempt.allocation_id)
    .where(Task.uid == bindparam("task"), Task.customer_id == bindparam("customer"))
    .where(or_(bindparam("user") == 0, Task.user_id == bindparam("user")))
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
    rows = await database.read(_FOUND, _values(principal, wanted))
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


def _values(principal: Principal, wanted: Wanted) -> Mapping[str, Any]:  # Any: of any column's type
    everything = principal.role is Role.OWNER
    return {
        "task": wanted.task_uid,
        "customer": principal.tenant_id,
        "user": 0 if everything else principal.user_id,
        "attempt": wanted.attempt or 0,
    }
