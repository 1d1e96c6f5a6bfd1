"""A principal's jobs: all of the tasks that it may see, whoever submitted them and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, and_, cast, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from api.allocations.tables import Allocation
from api.environments.schemas import WaitOut
from api.principal import Principal, Role
from api.ray_jobs.request import SUBMISSION_ID
from api.tasks.tables import Task, TaskAttempt
from scheduler.states import AllocationState

MAX_LISTED = 1000
DELETED = "ray_deleted"  # in `Task.more`: the id of the task whose job was deleted; a task that repeats it is another


@dataclass(frozen=True, slots=True)
class Job:
    """`attempt` is the last that has begun; `wait` why its allocation waits, if it does."""

    task: Task
    attempt: TaskAttempt | None
    wait: WaitOut | None


def package_uri(name: str) -> str:
    """As the clients write it: of `gcs/x.zip`, `gcs://x.zip`."""
    return name.replace("/", "://", 1)


def newest(session: Session, principal: Principal) -> Sequence[Job]:
    """The newest `MAX_LISTED`, in the order in which they were submitted."""
    rows = session.execute(_jobs(principal).order_by(Task.id.desc()).limit(MAX_LISTED)).all()
    return [_job(*row) for row in reversed(rows)]


def find(session: Session, principal: Principal, job_id: str) -> Job | None:
    """By the submission's id, or the task's own if that has none."""
    if not SUBMISSION_ID.fullmatch(job_id):
        return None
    named = Task.submission_id == job_id
    uid = _uid(job_id)
    if uid is not None:
        named = or_(named, and_(Task.uid == uid, Task.submission_id.is_(None)))
    first = Task.submission_id.is_(None)  # a submission may have been given the id of another task
    row = session.execute(_jobs(principal).where(named).order_by(first).limit(1)).one_or_none()
    return None if row is None else _job(*row)


def _job(task: Task, attempt: TaskAttempt | None, waiting: Allocation | None) -> Job:
    return Job(task, attempt, None if waiting is None else WaitOut.of(waiting.wait_reason))


def _jobs(principal: Principal) -> Select[Task, TaskAttempt | None, Allocation | None]:
    waits = and_(Allocation.id == Task.allocation_id, Allocation.state == AllocationState.QUEUED)
    query = (
        select(Task, TaskAttempt, Allocation)
        .outerjoin(TaskAttempt, and_(TaskAttempt.task_id == Task.id, TaskAttempt.number == Task.attempts))
        .outerjoin(Allocation, waits)
        .where(Task.customer_id == principal.tenant_id, Task.array_id.is_(None))
        .where(Task.more[DELETED].astext.is_distinct_from(cast(Task.uid, Text)))
    )
    return query if principal.role is Role.OWNER else query.where(Task.user_id == principal.user_id)


def _uid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
