"""What a host is to run under the lease of an attempt: told to that host alone, and what begins the attempt."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.errors import ApiError, Conflict, NotFound
from api.ids import parse_uid
from api.seal import derived_token
from api.secrets import service as secrets
from api.settings import Settings
from api.tasks import attempts, gangs
from api.tasks.current import Current, lock_of_allocation
from api.tasks.queueing import KIND
from api.tasks.spec import RAY_TOKEN, TaskSpec
from api.tasks.tables import Task, TaskAttempt
from api.uploads.references import archives_of
from api.uploads.tables import Upload
from api.volumes import service as volumes
from scheduler.host_protocol import Archive, AttemptOrder
from scheduler.states import AllocationState, AttemptEnd, AttemptState, EndReason, TaskState

_GOES_ON = (AttemptState.STARTING, AttemptState.RUNNING)


@dataclass(frozen=True, slots=True)
class Over:
    """It is not to start, and why: kept, so it is no error that would undo what was written."""

    detail: str


def order(
    session: Session, settings: Settings, *, host_id: int, allocation_uid: str, generation: int, actor: str
) -> AttemptOrder | Over:
    """Begin the attempt of this generation, if it has not begun, and say what it is. Repeatable.

    Raises:
        NotFound: the host has no lease of a task's allocation with that id.
        Conflict: `not_yet`, it is being placed: ask again soon.
    """
    query = select(Allocation).where(Allocation.uid == parse_uid(allocation_uid), Allocation.kind == KIND)
    allocation = session.scalar(query.with_for_update())
    if allocation is None or host_id not in allocation.host_ids:
        raise NotFound("There is no such lease on this host.")
    if allocation.generation == generation and allocation.state == AllocationState.PLACING:
        # The other hosts may yet fail, or the answer to the grant: then it would start a second time elsewhere.
        raise Conflict("It is being placed; ask again soon.", code="not_yet")
    if allocation.generation != generation or allocation.state != AllocationState.ACTIVE:
        return Over("The lease ends, or is an older one.")
    current = lock_of_allocation(session, allocation)
    try:
        if current is not None:
            volumes.settle(session, current.task, host_id)
    except volumes.VolumesElsewhere as error:  # it is queued again, for the host where they are
        request_end(session, allocation, end_reason=EndReason.PREEMPTED, actor=actor, reason=error.detail)
        return Over(error.detail)
    attempt = None if current is None else _attempt(session, current, actor=actor)
    if current is None or attempt is None:
        return Over("The attempt has ended.")
    try:
        return _order(session, settings, current, attempt, rank=allocation.host_ids.index(host_id))
    except ApiError as error:  # what it needs is there no more
        attempts.stop(session, current, end=AttemptEnd.START_FAILED, actor=actor, detail=error.detail)
        request_end(session, allocation, end_reason=EndReason.FAILED, actor=actor, reason=error.detail)
        return Over(error.detail)


def _attempt(session: Session, current: Current, *, actor: str) -> TaskAttempt | None:
    """The one that goes on, or a new one; None: it is over."""
    if current.attempt is not None:
        return current.attempt if current.attempt.state in _GOES_ON else None
    if current.task.state != TaskState.QUEUED or current.task.cancelled_at is not None:
        return None
    return attempts.begin(session, current, actor=actor)


def _order(session: Session, settings: Settings, current: Current, attempt: TaskAttempt, *, rank: int) -> AttemptOrder:
    task, allocation = current.task, current.allocation
    assert allocation is not None
    spec = TaskSpec.model_validate(task.spec)
    gang = gangs.network_of(session, settings, allocation)
    task_uid = str(task.uid if task.array_id is None else session.get_one(Task, task.array_id).uid)
    told = {"TASK_ID": task_uid, "TASK_NAME": task.name, "ATTEMPT": str(attempt.number)}
    return AttemptOrder(
        task_uid=task_uid,
        attempt_uid=str(attempt.uid),
        number=attempt.number,
        command=spec.command,
        setup=spec.setup,
        environment={**spec.env, **told, **gangs.environment(gang, rank)},
        secrets={
            **secrets.reveal(session, settings, workspace_id=task.workspace_id, names=spec.secrets),
            **_ray_token(settings, spec, attempt),
        },
        archives=_archives(session, task),
        mounts=volumes.mounts(session, task),
        timeout_s=spec.timeout_s,
        signal=spec.checkpoint.signal,
        grace_s=spec.checkpoint.grace_s,
        nodes=spec.nodes,
        gang=gang,
        array=task.array_id is not None,
        ray=spec.ray,
    )


def _ray_token(settings: Settings, spec: TaskSpec, attempt: TaskAttempt) -> dict[str, str]:
    """All of its nodes get the same one, and as the secrets do: in a file and a variable, hidden in its output."""
    return {RAY_TOKEN: derived_token(settings, purpose="task-ray", name=str(attempt.uid))} if spec.ray else {}


def _archives(session: Session, task: Task) -> tuple[Archive, ...]:
    """Its working directory has an empty target."""
    used = archives_of(task)
    if not used:
        return ()
    query = select(Upload.digest, Upload.size_bytes).where(
        Upload.customer_id == task.customer_id, Upload.digest.in_([each.digest for each in used])
    )
    sizes = {digest: size for digest, size in session.execute(query)}
    gone = next((each.digest for each in used if each.digest not in sizes), None)
    if gone is not None:
        raise NotFound(f"its upload {gone} is there no more")
    return tuple(Archive(each.digest, sizes[each.digest], each.target or "") for each in used)
