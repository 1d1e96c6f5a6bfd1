"""A task as Ray describes a job."""

from collections.abc import Mapping
from datetime import UTC
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel

from api.clock import to_ms
from api.environments.schemas import WaitOut
from api.tasks.tables import Task, TaskAttempt
from scheduler.states import AttemptEnd, AttemptState, TaskState

GIVEN = "ray"  # in `Task.more`: what the client sent, as it sent it


class JobStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class DriverInfo(BaseModel):
    id: str
    node_ip_address: str
    pid: str


class JobDetails(BaseModel):
    """Ray's description of a job, key for key. Times are milliseconds since the epoch."""

    type: Literal["SUBMISSION"] = "SUBMISSION"
    job_id: str | None = None
    submission_id: str
    driver_info: DriverInfo | None = None
    status: JobStatus
    entrypoint: str
    message: str
    error_type: str | None = None
    start_time: int
    end_time: int | None = None
    metadata: dict[str, str]
    runtime_env: dict[str, Any]  # Any: JSON, as it was given
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


_TERMINAL = {
    TaskState.SUCCEEDED: JobStatus.SUCCEEDED,
    TaskState.FAILED: JobStatus.FAILED,
    TaskState.TIMED_OUT: JobStatus.FAILED,
    TaskState.CANCELLED: JobStatus.STOPPED,
}
_ERRORS = {
    AttemptEnd.SETUP_FAILED: "RUNTIME_ENV_SETUP_FAILURE",
    AttemptEnd.IMAGE_MISSING: "JOB_ENTRYPOINT_COMMAND_START_ERROR",
    AttemptEnd.START_FAILED: "JOB_ENTRYPOINT_COMMAND_START_ERROR",
    AttemptEnd.HOST_LOST: "JOB_SUPERVISOR_ACTOR_DIED",
}
_MESSAGES = {
    JobStatus.PENDING: "Job has not started yet.",
    JobStatus.RUNNING: "Job is currently running.",
    JobStatus.STOPPED: "Job was intentionally stopped.",
    JobStatus.SUCCEEDED: "Job finished successfully.",
    JobStatus.FAILED: "Job failed.",
}
Json = Mapping[str, Any]  # Any: JSON


def status_of(task: Task, attempt: TaskAttempt | None) -> JobStatus:
    """`attempt` is the last that has begun."""
    state = TaskState(task.state)
    if state in _TERMINAL:
        return _TERMINAL[state]
    runs = state is TaskState.RUNNING or (
        state is TaskState.STOPPING and attempt is not None and attempt.running_at is not None
    )
    return JobStatus.RUNNING if runs else JobStatus.PENDING


def details(task: Task, attempt: TaskAttempt | None, wait: WaitOut | None) -> JobDetails:
    """`attempt` is the last that has begun; `wait` why the task's allocation waits, if it does."""
    given: Json = task.more.get(GIVEN, {})
    status = status_of(task, attempt)
    return JobDetails(
        submission_id=job_id_of(task),
        status=status,
        entrypoint=given.get("entrypoint", task.spec["command"]),
        message=_message(task, attempt, wait, status),
        error_type=_error(attempt) if status is JobStatus.FAILED else None,
        start_time=to_ms(task.started_at or task.created_at),
        end_time=None if task.ended_at is None else to_ms(task.ended_at),
        metadata=given.get("metadata", {}),
        runtime_env=given.get("runtime_env", {}),
        driver_exit_code=task.exit_code if task.ended_at is not None else None,
    )


def job_id_of(task: Task) -> str:
    """A task that did not come from Ray's clients has its own id as a job's."""
    return task.submission_id or str(task.uid)


def _message(task: Task, attempt: TaskAttempt | None, wait: WaitOut | None, status: JobStatus) -> str:
    parts = [_MESSAGES[status], task.detail]
    if status is JobStatus.PENDING:
        parts += [_waiting(wait)] if wait and task.state == TaskState.QUEUED else [_starting(task, attempt)]
    elif status is JobStatus.RUNNING and task.progress is not None:
        parts.append(_progress(task.progress))
    return " ".join(part for part in parts if part)


def _waiting(wait: WaitOut) -> str:
    place = "" if wait.position is None else f" Number {wait.position} in the queue."
    if wait.eta is None:
        return f"{wait.detail}{place}"
    return (
        f"{wait.detail}{place} Expected to start at {wait.eta.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({wait.eta_basis})."
    )


def _starting(task: Task, attempt: TaskAttempt | None) -> str:
    if task.state == TaskState.STARTING and attempt is not None and attempt.state == AttemptState.STARTING:
        return f"It is being started: {attempt.phase}." if attempt.phase else "It is being started."
    return ""


def _progress(progress: Json) -> str:
    fraction, line = progress.get("fraction"), progress.get("line")
    done = "" if fraction is None else f"{fraction:.0%}"
    return " ".join(part for part in (done, line) if part)


def _error(attempt: TaskAttempt | None) -> str | None:
    if attempt is None or attempt.end is None:
        return None
    return _ERRORS.get(AttemptEnd(attempt.end), "JOB_ENTRYPOINT_COMMAND_ERROR")
