"""Whether what a submission names is there."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.errors import Conflict, Unprocessable
from api.images.tables import Image
from api.quotas.limits import Path, limits_on
from api.secrets import service as secrets
from api.tasks import graph
from api.tasks.spec import TaskSpec
from api.tasks.submission import Wanted
from api.tasks.tables import Task
from api.uploads import service as uploads
from scheduler.quota import Level
from scheduler.states import TaskState

_OF_LEVEL = {Level.CUSTOMER: Task.customer_id, Level.WORKSPACE: Task.workspace_id, Level.USER: Task.user_id}


@dataclass(frozen=True, slots=True)
class Parent:
    id: int
    state: TaskState


def find_parents(session: Session, workspace_id: int, names: Collection[str]) -> dict[str, Parent]:
    """The newest task of each name in the workspace. None of them ends before the caller's transaction does: what
    follows from its end then finds those that wait for it."""
    if not names:
        return {}
    newest = (
        select(func.max(Task.id))
        .where(Task.workspace_id == workspace_id, Task.name.in_(names), Task.array_id.is_(None))
        .group_by(Task.name)
    )
    locked = select(Task).where(Task.id.in_(newest)).order_by(Task.id).with_for_update(read=True)
    found = session.scalars(locked.execution_options(populate_existing=True))
    return {task.name: Parent(task.id, TaskState(task.state)) for task in found}


def parents_of(spec: TaskSpec, known: Mapping[str, Parent]) -> list[Parent]:
    """Those that a task depends on, in its order.

    Raises:
        Unprocessable: `unknown_dependency`, or `dependency_failed` for one that has ended otherwise than it has to.
    """
    parents = []
    for depends in spec.depends_on:
        parent = known.get(depends.task)
        if parent is None:
            raise Unprocessable(
                f"{spec.name!r} depends on {depends.task!r}: there is no such task in this submission or in the "
                "workspace.",
                code="unknown_dependency",
            )
        if graph.fails(depends.condition, parent.state):
            raise Unprocessable(
                f"{spec.name!r} waits for {depends.task!r} to have {depends.condition}, and it has ended as "
                f"{parent.state} already.",
                code="dependency_failed",
            )
        parents.append(parent)
    return parents


def check_document(session: Session, customer_id: int, workspace_id: int, wanted: Wanted) -> Image:
    """Its image, if all that the document names is there. What it mounts is looked at where it is queued.

    Raises:
        Unprocessable: `unknown_image`, `unknown_secret`, `unknown_upload`, `not_supported`.
    """
    spec = wanted.spec
    if spec.array and spec.nodes > 1:
        raise Unprocessable("An array's elements run on one host each: `nodes` is 1.", code="not_supported")
    if spec.array and spec.ray:
        raise Unprocessable("An array's elements can't have a Ray of their own: leave `ray` out.", code="not_supported")
    image = session.scalar(select(Image).where(Image.name == spec.image, Image.enabled))
    if image is None:
        raise Unprocessable(f"There is no image {spec.image!r}; see /customer/images.", code="unknown_image")
    secrets.require(session, workspace_id=workspace_id, wanted=spec.secrets)
    _check_uploads(session, customer_id, wanted)
    return image


def check_submission_ids(session: Session, customer_id: int, ids: Sequence[str | None]) -> None:
    """The caller has locked the customer's row: nobody else takes one meanwhile.

    Raises:
        Conflict: `submission_exists`.
    """
    named = [each for each in ids if each is not None]
    if not named:
        return
    query = select(Task.submission_id).where(Task.customer_id == customer_id, Task.submission_id.in_(named))
    taken = session.scalar(query.limit(1)) or next((each for each in named if named.count(each) > 1), None)
    if taken is not None:
        raise Conflict(f"There is a task with the submission id {taken!r} already.", code="submission_exists")


def check_blocked(session: Session, path: Path, made: Iterable[Task]) -> None:
    """Tasks that wait for others are in no queue yet: as many may as may be queued.

    Raises:
        Unprocessable: `queue_limit`.
    """
    if all(task.state != TaskState.BLOCKED for task in made):
        return
    for scope, limits in limits_on(session, path):
        if (limit := limits.queued) is None:
            continue
        waiting = select(Task.id).where(_OF_LEVEL[scope.level] == scope.id, Task.state == TaskState.BLOCKED)
        if session.scalar(select(func.count()).select_from(waiting.limit(limit + 1).subquery())) == limit + 1:
            detail = f"More than {limit} tasks of this {scope.level} would wait for others."
            raise Unprocessable(detail, code="queue_limit")


def _check_uploads(session: Session, customer_id: int, wanted: Wanted) -> None:
    digests = {each.digest for each in wanted.archives} | ({wanted.working_dir} if wanted.working_dir else set())
    for digest in sorted(digests):
        if not uploads.exists(session, customer_id=customer_id, digest=digest):
            raise Unprocessable(f"{digest} is not uploaded; see /customer/uploads.", code="unknown_upload")
