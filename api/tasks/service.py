"""Submitting, cancelling and retrying tasks. What follows is the scheduler's, the hosts' and `settling`'s."""

from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.allocations.transitions import notify
from api.clock import utc_now
from api.errors import Conflict, NotFound
from api.principal import Caller
from api.tasks import checks
from api.tasks.arrays import is_array
from api.tasks.checks import Parent
from api.tasks.current import Current, lock
from api.tasks.settling import advance
from api.tasks.spec import TaskSpec
from api.tasks.submission import Submission, Wanted
from api.tasks.submitting import ARCHIVES, accept, depends_of, outside, record
from api.tasks.tables import Task
from api.tenants import workspaces
from api.tenants.tables import Customer
from api.uploads.references import archives_of
from api.volumes import service as volumes
from scheduler.states import TASK, EndReason, TaskState

_TRIES = 5  # each meets another step of the task, and between two of these an attempt may well lie
_RETRIED_FROM = "retried_from"  # a key of `Task.more` that is the platform's


def submit(session: Session, caller: Caller, submission: Submission) -> list[Task]:
    """Accept all of the tasks, or none, in the caller's transaction; in the order of the submission.

    Raises:
        Unprocessable: `name_twice`, `dependency_cycle`, `unknown_dependency`, `dependency_failed`, `unknown_image`,
            `unknown_workspace`, `unknown_upload`, `unknown_secret`, `not_supported`, or a refusal of the scheduler's
            (`api.allocations.service.submit`).
        Conflict: `submission_exists`.
        api.errors.Forbidden: `account_disabled`.
    """
    _lock_customer(session, caller.customer_id)
    workspace_id = workspaces.find_id(session, customer_id=caller.customer_id, name=submission.workspace)
    return accept(session, caller, workspace_id, submission.tasks)


def check(session: Session, caller: Caller, submission: Submission) -> list[int | None]:
    """Whether all is there that a submission names, with nothing changed; the host that its volumes bind each task to.

    Raises:
        Unprocessable, Conflict: as `submit`, but for the scheduler's refusals.
    """
    workspace_id = workspaces.find_id(session, customer_id=caller.customer_id, name=submission.workspace)
    depends = depends_of(submission.tasks)
    checks.check_submission_ids(session, caller.customer_id, [wanted.submission_id for wanted in submission.tasks])
    known = checks.find_parents(session, workspace_id, outside(depends))
    known |= dict.fromkeys(depends, Parent(0, TaskState.BLOCKED))
    bound_to = []
    for wanted in submission.tasks:
        spec = wanted.spec
        checks.parents_of(spec, known)
        checks.check_document(session, caller.customer_id, workspace_id, wanted)
        bound_to.append(volumes.bind(session, workspace_id=workspace_id, names=spec.volumes, nodes=spec.nodes))
    return bound_to


def cancel(session: Session, caller: Caller, uid: UUID, *, reason: str = "It was cancelled.") -> Task:
    """Ask for its end: at once if nothing of it runs, else its host lets it end well. Idempotent.

    Raises:
        NotFound: there is no such task.
        Conflict: `task_changed`, again and again.
    """
    current = _lock(session, _find(session, uid).id)
    task = current.task
    if task.cancelled_at is not None or not TASK[TaskState(task.state)]:
        return task
    task.cancelled_at, task.detail = utc_now(), reason
    if is_array(task) and task.state != TaskState.BLOCKED:  # its workers end first
        task.due_at = task.cancelled_at
        notify(session)
        record(session, caller, task, "cancel")
        return task
    if current.allocation is not None:
        request_end(session, current.allocation, end_reason=EndReason.CANCELLED, actor=caller.actor, reason=reason)
    advance(session, current, actor=caller.actor)
    record(session, caller, task, "cancel")
    return task


def retry(session: Session, caller: Caller, uid: UUID) -> Task:
    """Submit a task that has ended once more: a new one with the same document and uploads, in the same workspace.

    Its dependencies are looked up by their names again.

    Raises:
        NotFound: there is no such task.
        Conflict: `not_ended`.
        Unprocessable: as `submit`.
    """
    ended = _find(session, uid)
    if TASK[TaskState(ended.state)]:
        raise Conflict("It has not ended; cancel it first.", code="not_ended")
    _lock_customer(session, ended.customer_id)
    own = (ARCHIVES, _RETRIED_FROM)
    wanted = Wanted(
        spec=TaskSpec.model_validate(ended.spec),
        working_dir=ended.working_dir,
        archives=tuple(each for each in archives_of(ended) if each.target is not None),
        more={key: value for key, value in ended.more.items() if key not in own} | {_RETRIED_FROM: str(ended.uid)},
    )
    return accept(session, caller, ended.workspace_id, [wanted])[0]


def cancel_all(session: Session, *, customer_id: int, user_id: int | None, reason: str) -> int:
    """Ask for the end of all that a customer, or one of its users, has submitted; how many have not ended.

    The caller has locked the customer's row, and asked for the end of the allocations. The rest is `settling`'s.
    """
    mine = select(Task.id).where(Task.customer_id == customer_id, Task.ended_at.is_(None), Task.cancelled_at.is_(None))
    if user_id is not None:
        mine = mine.where(Task.user_id == user_id)
    ids = session.scalars(mine.order_by(Task.id).with_for_update()).all()
    now = utc_now()
    if ids:
        stopped = update(Task).where(Task.id.in_(ids)).values(cancelled_at=now, due_at=now, detail=reason)
        session.execute(stopped)
        notify(session)
    return len(ids)


def retried_from(task: Task) -> UUID | None:
    uid = task.more.get(_RETRIED_FROM)
    return None if uid is None else UUID(uid)


def _lock(session: Session, task_id: int) -> Current:
    """As it is between two of its steps. Of a try that met one of them nothing stays locked: so the order is kept.

    Raises:
        Conflict: `task_changed`, at every try.
    """
    for left in reversed(range(_TRIES)):
        try:
            with session.begin_nested():
                return lock(session, task_id)
        except Conflict:
            if not left:
                raise
    raise AssertionError("unreachable")


def _lock_customer(session: Session, customer_id: int) -> None:
    """The first lock of a submission: two of one customer come one after another, and a full queue is counted so."""
    session.execute(select(Customer.id).where(Customer.id == customer_id).with_for_update())


def _find(session: Session, uid: UUID) -> Task:
    task = session.scalar(select(Task).where(Task.uid == uid))
    if task is None:
        raise NotFound("There is no such task.")
    return task
