"""Ray's interface for jobs, at Ray's own addresses: what `ray job` and `JobSubmissionClient` call."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import APIRouter, Path, WebSocket
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.db import Database
from api.deps import DatabaseDep, ObjectsDep, PrincipalDep
from api.errors import NotFound
from api.logs import connection
from api.logs.endpoints import FollowingDep
from api.principal import Caller, Principal
from api.ray_jobs import output, repository, service, version
from api.ray_jobs.details import JobDetails, details
from api.ray_jobs.plain import NoBrowsers, PlainRoute, texts
from api.ray_jobs.repository import Job
from api.ray_jobs.request import JobSubmit
from api.ray_jobs.version import Version

router = APIRouter(prefix="/api", tags=["ray jobs"], route_class=PlainRoute, dependencies=[NoBrowsers])
following_router = APIRouter(prefix="/api")
_Answer = TypeVar("_Answer")

JobId = Annotated[str, Path(description="What `submit` answered, or the id of a task that was made elsewhere")]


class Logs(BaseModel):
    logs: str


class Submitted(BaseModel):
    job_id: str
    submission_id: str


class Stopped(BaseModel):
    stopped: bool


class Deleted(BaseModel):
    deleted: bool


@router.get("/version", responses=texts())
async def get_version() -> Version:
    """Which Ray this speaks like."""
    return version.installed()


@router.post("/jobs/", responses=texts(405, 413))
def submit_job(body: JobSubmit, database: DatabaseDep, principal: PrincipalDep) -> Submitted:
    """Submit a job: it becomes a task, and waits in the same queue as all others."""
    caller = _caller(principal)
    job_id = database.transact(lambda session: service.submit(session, caller, body))
    return Submitted(job_id=job_id, submission_id=job_id)


@router.get("/jobs/", responses=texts())
def list_jobs(database: DatabaseDep, principal: PrincipalDep) -> list[JobDetails]:
    """One's newest jobs, at most a thousand; an owner sees all of the customer's. Tasks made elsewhere are jobs too."""

    def work(session: Session) -> list[JobDetails]:
        return [details(job.task, job.attempt, job.wait) for job in repository.newest(session, principal)]

    return database.transact(work)


@router.get("/jobs/{job_id}", responses=texts(404))
def get_job(job_id: JobId, database: DatabaseDep, principal: PrincipalDep) -> JobDetails:
    """A job. While it waits, its message says why, and when it may start."""
    return _with_job(database, principal, job_id, lambda _, job: details(job.task, job.attempt, job.wait))


@router.post("/jobs/{job_id}/stop", responses=texts(404, 405))
def stop_job(job_id: JobId, database: DatabaseDep, principal: PrincipalDep) -> Stopped:
    """Ask for a job's end; it may take as long as its checkpoint's grace. Of one that has ended it changes nothing."""
    stop = partial(service.stop, caller=_caller(principal))
    return Stopped(stopped=_with_job(database, principal, job_id, lambda session, job: stop(session, job=job)))


@router.delete("/jobs/{job_id}", responses=texts(404, 405))
def delete_job(job_id: JobId, database: DatabaseDep, principal: PrincipalDep) -> Deleted:
    """Forget a job that has ended. The task it was is kept for the bill, with its logs."""
    _with_job(database, principal, job_id, lambda session, job: service.delete(session, principal, job))
    return Deleted(deleted=True)


@router.get("/jobs/{job_id}/logs", responses=texts(404))
async def get_logs(job_id: JobId, database: DatabaseDep, principal: PrincipalDep, objects: ObjectsDep) -> Logs:
    """What the job's newest attempt has written, at most the last 8 MiB of it."""
    task_uid = await _uid_of(database, principal, job_id)
    return Logs(logs=await output.newest(database, objects, principal, task_uid))


@following_router.websocket("/jobs/{job_id}/logs/tail")
async def tail_logs(
    websocket: WebSocket, job_id: JobId, database: DatabaseDep, principal: PrincipalDep, following: FollowingDep
) -> None:
    """The same, and all that the job still writes, as text; closed with 1000 when it has ended."""
    task_uid = await _uid_of(database, principal, job_id)
    with following.counted(principal):
        await websocket.accept()
        await connection.serve(websocket, output.tail(websocket, database, following, principal, task_uid))


async def _uid_of(database: Database, principal: Principal, job_id: str) -> UUID:
    return await run_in_threadpool(_with_job, database, principal, job_id, lambda _, job: job.task.uid)


def _with_job(
    database: Database, principal: Principal, job_id: str, work: Callable[[Session, Job], _Answer]
) -> _Answer:
    """
    Raises:
        NotFound: there is no such job, or it is another's.
    """

    def found(session: Session) -> _Answer:
        job = repository.find(session, principal, job_id)
        if job is None:
            raise NotFound(f"Job {job_id} does not exist")
        return work(session, job)

    return database.transact(found)


def _caller(principal: Principal) -> Caller:
    return Caller(principal.user_id, principal.tenant_id, principal.actor, principal.address)
