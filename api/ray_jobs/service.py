"""Submitting, stopping and deleting jobs: each is a task of its customer, and goes the way of tasks."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from api.audit import service as audit
from api.errors import BadRequest, Conflict
from api.images.tables import Image
from api.principal import Caller, Principal
from api.ray_jobs import repository
from api.ray_jobs.details import GIVEN, job_id_of, status_of
from api.ray_jobs.mapping import JobTask, task_of
from api.ray_jobs.repository import DELETED, Job
from api.ray_jobs.request import JobSubmit, Refused
from api.tasks import service as tasks
from api.tasks.spec import TaskSpec
from api.tasks.submission import Submission, Wanted
from api.uploads import service as uploads
from api.uploads.references import ArchiveUse
from scheduler.states import TASK, TaskState


def submit(session: Session, caller: Caller, job: JobSubmit) -> str:
    """The id under which it was accepted.

    Raises:
        BadRequest: it can't be run as it was asked for.
        api.errors.ApiError: as `api.tasks.service.submit` refuses.
    """
    try:
        asked = task_of(job)
    except Refused as error:
        raise BadRequest(str(error)) from error
    # Uploads before the customer, which `submit` locks: who makes room for others has rows of them when it needs that.
    working_dir, archives = _uploads(session, caller.customer_id, asked)
    document = asked.document | {"image": _image_name(session, asked.image)}
    wanted = Wanted(
        spec=TaskSpec.model_validate(document),
        working_dir=working_dir,
        submission_id=asked.submission_id,
        archives=archives,
        more={GIVEN: asked.given},
    )
    try:
        tasks.submit(session, caller, Submission([wanted], workspace=asked.workspace))
    except Conflict as error:
        if error.code != "submission_exists":
            raise
        raise BadRequest(
            f"Job with submission_id {asked.submission_id} already exists. Please use a different submission_id."
        ) from error
    return asked.submission_id


def stop(session: Session, caller: Caller, job: Job) -> bool:
    """Whether there was something to stop."""
    if not TASK[TaskState(job.task.state)]:
        return False
    tasks.cancel(session, caller, job.task.uid, reason="It was stopped.")
    return True


def delete(session: Session, principal: Principal, job: Job) -> None:
    """Forget the job: its id is free again. The task stays, for the bills that name it, and so do its logs.

    Raises:
        BadRequest: it has not ended.
    """
    task, job_id = job.task, job_id_of(job.task)
    session.refresh(task, with_for_update=True)
    if TASK[TaskState(task.state)]:
        state = status_of(task, job.attempt)
        raise BadRequest(f"Attempted to delete job '{job_id}', but it is in a non-terminal state {state}.")
    task.submission_id = None
    task.more = {**task.more, DELETED: str(task.uid)}
    audit.record(
        session, actor=principal.actor, action="job.delete", target=f"task:{task.uid}", customer_id=task.customer_id,
        address=principal.address, details={"job_id": job_id},
    )  # fmt: skip


def _uploads(session: Session, customer_id: int, asked: JobTask) -> tuple[str | None, tuple[ArchiveUse, ...]]:
    """The digest of the working directory, and the other archives."""
    working_dir, archives = None, []
    for use in asked.packages:
        digest = uploads.find_package(session, customer_id=customer_id, name=use.name)
        if digest is None:
            raise BadRequest(f"runtime_env: {repository.package_uri(use.name)} is not uploaded")
        if use.target is None:
            working_dir = digest
        else:
            archives.append(ArchiveUse(digest, use.target))
    return working_dir, tuple(archives)


def _image_name(session: Session, image: str) -> str:
    """Of an image by its name or reference."""
    query = select(Image.name).where(or_(Image.name == image, Image.reference == image), Image.enabled)
    name = session.scalar(query.order_by(Image.name != image).limit(1))
    if name is None:
        raise BadRequest(f"There is no image {image[:200]!r}; see /api/v1/customer/images.")
    return name
