"""Reading tasks: a tenant's only through a query scoped by the principal, with all that their views show."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from api.allocations.tables import Allocation, AllocationDevice
from api.environments.schemas import DeviceOut
from api.errors import NotFound
from api.identity.tables import User
from api.images.tables import Image
from api.machines.tables import Gpu, Host
from api.principal import Principal, Role
from api.tasks.tables import Task, TaskArray, TaskAttempt, TaskDependency, TaskElement, TaskEvent
from api.tenants.tables import Customer, Workspace
from scheduler.states import TaskState

MAX_SHOWN = 200  # attempts and events of one task


@dataclass(frozen=True, slots=True)
class Loaded:
    """A task with what its views show of other tables. `allocation` is the current or the last one."""

    task: Task
    username: str
    customer: str
    workspace: str
    image: str
    allocation: Allocation | None
    host: str | None
    array: TaskArray | None


def visible_to(principal: Principal) -> Select[Any]:
    """Members see their own tasks, owners their customer's."""
    query = select(Task).where(Task.customer_id == principal.tenant_id, Task.array_id.is_(None))
    return query if principal.role is Role.OWNER else query.where(Task.user_id == principal.user_id)


def find(session: Session, query: Select[Any], uid: UUID) -> Task:
    """One of the tasks that `query` selects, unlocked.

    Raises:
        NotFound: it selects none with that id.
    """
    task = session.scalar(query.where(Task.uid == uid))
    if not isinstance(task, Task):
        raise NotFound("There is no such task.")
    return task


def load(session: Session, tasks: Sequence[Task]) -> list[Loaded]:
    """The tasks, in their order, with the rest of their views: one query for any number."""
    query = (
        select(
            Task.id,
            User.username,
            Customer.name.label("customer"),
            Workspace.name.label("workspace"),
            Image.name.label("image"),
            Allocation,
            Host.name.label("host"),
            TaskArray,
        )
        .select_from(Task)
        .join(User, User.id == Task.user_id)
        .join(Customer, Customer.id == Task.customer_id)
        .join(Workspace, Workspace.id == Task.workspace_id)
        .join(Image, Image.id == Task.image_id)
        .outerjoin(Allocation, Allocation.id == Task.allocation_id)
        .outerjoin(Host, Host.id == Allocation.host_id)
        .outerjoin(TaskArray, TaskArray.task_id == Task.id)
        .where(Task.id.in_([task.id for task in tasks]))
    )
    rows = {row.id: row for row in session.execute(query)}
    return [_loaded(task, rows[task.id]) for task in tasks]


def _loaded(task: Task, row: Row[*tuple[Any, ...]]) -> Loaded:
    return Loaded(task, row.username, row.customer, row.workspace, row.image, row.Allocation, row.host, row.TaskArray)


def attempts_of(session: Session, task: Task) -> Sequence[Row[*tuple[Any, ...]]]:
    """The last ones, of an array its workers', in their order: rows of `TaskAttempt`, `allocation_uid` and `host`."""
    query = (
        select(TaskAttempt, Allocation.uid.label("allocation_uid"), Host.name.label("host"))
        .join(Allocation, Allocation.id == TaskAttempt.allocation_id)
        .outerjoin(Host, Host.id == Allocation.host_id)
        .where(attempt_of(task.id))
        .order_by(TaskAttempt.number.desc())
        .limit(MAX_SHOWN)
    )
    return session.execute(query).all()[::-1]


def attempt_of(task_id: int | InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """The condition that an attempt is this task's, or a worker's of this array."""
    workers = aliased(Task)
    return or_(
        TaskAttempt.task_id == task_id,
        TaskAttempt.task_id.in_(select(workers.id).where(workers.array_id == task_id)),
    )


def elements_of(
    session: Session, task: Task, state: TaskState | None, *, after: int, most: int
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Those that have started, by their indices: rows of `TaskElement` and `attempt`, the number of that."""
    query = (
        select(TaskElement, TaskAttempt.number.label("attempt"))
        .join(TaskAttempt, TaskAttempt.id == TaskElement.attempt_id)
        .where(TaskElement.task_id == task.id, TaskElement.index > after)
    )
    if state is not None:
        query = query.where(TaskElement.state == state)
    return session.execute(query.order_by(TaskElement.index).limit(most)).all()


def devices_of(session: Session, attempts: Iterable[TaskAttempt]) -> Mapping[int, list[DeviceOut]]:
    """What attempts have or had, by the attempt's id."""
    by_lease = {(attempt.allocation_id, attempt.generation): attempt.id for attempt in attempts}
    query = (
        select(AllocationDevice, Gpu)
        .join(Gpu, Gpu.id == AllocationDevice.gpu_id)
        .where(AllocationDevice.allocation_id.in_([allocation_id for allocation_id, _ in by_lease]))
        .order_by(Gpu.host_id, Gpu.index)
    )
    milli: dict[tuple[int, int], int] = defaultdict(int)  # a share may take several range rows
    gpus: dict[int, Gpu] = {}
    for row, gpu in session.execute(query):
        if (attempt_id := by_lease.get((row.allocation_id, row.generation))) is not None:
            milli[attempt_id, gpu.id] += row.milli_to - row.milli_from
            gpus[gpu.id] = gpu
    devices: dict[int, list[DeviceOut]] = defaultdict(list)
    for (attempt_id, gpu_id), share in milli.items():
        gpu = gpus[gpu_id]
        devices[attempt_id].append(DeviceOut(uuid=gpu.uuid, model=gpu.model, milli=share, simulated=gpu.simulated))
    return devices


def dependencies_of(session: Session, task: Task) -> Sequence[Row[*tuple[Any, ...]]]:
    """Rows of `task_id`, `name`, `condition`, `state`: of the tasks that it waits for, or has waited for."""
    query = (
        select(Task.uid.label("task_id"), Task.name, TaskDependency.condition, Task.state)
        .join(TaskDependency, and_(TaskDependency.parent_id == Task.id, TaskDependency.task_id == task.id))
        .order_by(Task.id)
    )
    return session.execute(query).all()


def events_of(session: Session, task: Task) -> Sequence[TaskEvent]:
    query = select(TaskEvent).where(TaskEvent.task_id == task.id).order_by(TaskEvent.id.desc()).limit(MAX_SHOWN)
    return session.scalars(query).all()[::-1]
