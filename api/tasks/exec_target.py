"""Where a command in a task would run: on the host of one of its nodes, under the lease that its attempt has there."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Integer, bindparam, cast, or_, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.db import Database
from api.errors import Conflict, NotFound
from api.machines.tables import Host
from api.principal import Principal, Role
from api.reading import Statement
from api.tasks.submitting import record
from api.tasks.tables import Task, TaskAttempt
from scheduler.states import AttemptState

_FOUND = Statement(
    select(
        Task.id,
        Task.spec["array"].astext.is_not(None).label("is_array"),
        TaskAttempt.state,
        Allocation.uid,
        Allocation.generation,
        Allocation.nodes,
        Host.uid.label("host_uid"),
    )
    .outerjoin(Allocation, Allocation.id == Task.allocation_id)
    .outerjoin(
        TaskAttempt,
        (TaskAttempt.allocation_id == Allocation.id) & (TaskAttempt.generation == Allocation.generation),
    )
    .outerjoin(Host, Host.id == Allocation.host_ids[cast(bindparam("place"), Integer)])
    .where(Task.uid == bindparam("task"), Task.customer_id == bindparam("customer"))
    .where(or_(bindparam("user") == 0, Task.user_id == bindparam("user")))
)
_ARRAY = (
    "It is an array, whose elements run in several containers. Submit one element as a task of its own, without "
    "`array` and with TASK_INDEX in `env`, and run the command there."
)


@dataclass(frozen=True, slots=True)
class Target:
    task_id: int
    host_uid: str
    allocation_uid: str
    generation: int


async def find_target(database: Database, principal: Principal, task_uid: UUID, rank: int) -> Target:
    """
    Raises:
        NotFound: no such task or node, or not for this principal to see.
        Conflict: `not_running`, or `is_array`.
    """
    values = {
        "task": task_uid,
        "customer": principal.tenant_id,
        "user": 0 if principal.role is Role.OWNER else principal.user_id,
        "place": rank + 1,
    }
    rows = await database.read(_FOUND, values)
    if not rows:
        raise NotFound("There is no such task.")
    task_id, is_array, state, allocation_uid, generation, nodes, host_uid = rows[0]
    if is_array:
        raise Conflict(_ARRAY, code="is_array")
    if nodes is not None and rank >= nodes:
        raise NotFound(f"The task has no node of rank {rank}.")
    if state != AttemptState.RUNNING or host_uid is None:
        raise Conflict("The task does not run now.", code="not_running")
    return Target(task_id, str(host_uid), str(allocation_uid), generation)


def note(database: Database, principal: Principal, target: Target, command: str) -> None:
    """The audit row. Of the command the first word alone: what follows may be anybody's secret."""

    def work(session: Session) -> None:
        record(session, principal.caller, session.get_one(Task, target.task_id), "exec", command=command[:200])

    database.transact(work)
