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
from api.tasks.tables import Task, TaskAttempt, TaskElement
from scheduler.states import TASK, TaskState

_FOUND = Statement(
    select(Task.state, TaskAttempt.id, TaskAttempt.uid, TaskAttempt.number, Allocation.nodes)
    .select_from(Task)
    .outerjoin(
        TaskAttempt,
        attempt_of(Task.id) & or_(bindparam("attempt") == 0, TaskAttempt.number == bindparam("attempt")),
    )
    .outerjoin(Allocation, Allocation.id == TaskAttempt.allocation_id)
    .where(Task.array_id.is_(None))
    .where(Task.uid == bindparam("task"), Task.customer_id == bindparam("customer"))
    .where(or_(bindparam("user") == 0, Task.user_id == bindparam("user")))
    .order_by(TaskAttempt.number.desc())
    .limit(1)
)


_ELEMENT = Statement(
    select(TaskAttempt.number, TaskElement.log_from, TaskElement.log_to)
    .select_from(TaskElement)
    .join(Task, Task.id == TaskElement.task_id)
    .join(TaskAttempt, TaskAttempt.id == TaskElement.attempt_id)
    .where(TaskElement.index == bindparam("element"))
    .where(Task.uid == bindparam("task"), Task.customer_id == bindparam("customer"))
    .where(or_(bindparam("user") == 0, Task.user_id == bindparam("user")))
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


@dataclass(frozen=True, slots=True)
class ElementSpan:
    """Where the output of an array's element is, in that of an attempt. No `end`: it has not ended."""

    attempt: int
    begin: int
    end: int | None


async def find_element(database: Database, principal: Principal, task_uid: UUID, index: int) -> ElementSpan:
    """
    Raises:
        NotFound: no such task, or no such element of it that has started, or not for this principal to see.
    """
    values = _values(principal, Wanted(task_uid, None, 0)) | {"element": index}
    del values["attempt"]
    rows = await database.read(_ELEMENT, values)
    if not rows or rows[0][1] is None:
        raise NotFound("There is no such task, or no such element of it that has started.")
    return ElementSpan(*rows[0])


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


def _values(principal: Principal, wanted: Wanted) -> dict[str, Any]:  # Any: of any column's type
    everything = principal.role is Role.OWNER
    return {
        "task": wanted.task_uid,
        "customer": principal.tenant_id,
        "user": 0 if everything else principal.user_id,
        "attempt": wanted.attempt or 0,
    }
