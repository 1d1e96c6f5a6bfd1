"""A task as Ray describes a job: status, message, times, and what the client gave."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import ray
from ray.dashboard.modules.job.pydantic_models import JobDetails as RaysDetails
from ray.dashboard.modules.version import CURRENT_VERSION

from api.environments.schemas import WaitOut
from api.ray_jobs.details import JobStatus, details
from api.ray_jobs.version import installed
from api.tasks.tables import Task, TaskAttempt

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
AT_MS = 1_795_694_400_000
UID = UUID("01890000-0000-7000-8000-000000000001")
WAIT = WaitOut(
    code="quota", detail="Your customer's quota is used up.", position=3,
    eta=datetime(2026, 11, 26, 13, 30, tzinfo=UTC), eta_basis="estimate",
)  # fmt: skip


def task(state: str, **columns: Any) -> Task:
    given = {"uid": UID, "spec": {"command": "true"}, "more": {}, "detail": "", "created_at": AT, **columns}
    return Task(state=state, **given)


def attempt(state: str, **columns: Any) -> TaskAttempt:
    return TaskAttempt(state=state, **{"phase": "", **columns})


def test_the_least() -> None:
    found = details(task("queued"), None, None)
    assert (found.submission_id, found.entrypoint, found.start_time, found.end_time) == (str(UID), "true", AT_MS, None)
    assert (found.metadata, found.runtime_env, found.driver_exit_code, found.error_type) == ({}, {}, None, None)


def test_rays_own_model_reads_it_whole() -> None:
    found = details(task("running", started_at=AT), attempt("running", running_at=AT), None).model_dump(mode="json")
    assert set(found) == set(RaysDetails.model_fields)
    assert RaysDetails(**found).model_dump(mode="json") == found


def test_what_was_given_comes_back() -> None:
    given = {"entrypoint": "python x.py", "metadata": {"a": "b"}, "runtime_env": {"pip": ["emoji"]}}
    found = details(task("queued", submission_id="j1", more={"ray": given}, spec={"command": "long"}), None, None)
    assert (found.submission_id, found.entrypoint) == ("j1", "python x.py")
    assert (found.metadata, found.runtime_env) == ({"a": "b"}, {"pip": ["emoji"]})


@pytest.mark.parametrize(
    ("state", "last", "status"),
    [
        ("blocked", None, "PENDING"),
        ("queued", None, "PENDING"),
        ("queued", attempt("ended", end="preempted", running_at=AT), "PENDING"),
        ("starting", attempt("starting"), "PENDING"),
        ("running", attempt("running", running_at=AT), "RUNNING"),
        ("stopping", attempt("stopping", end="cancelled"), "PENDING"),
        ("stopping", attempt("stopping", end="cancelled", running_at=AT), "RUNNING"),
        ("succeeded", attempt("ended", end="exited"), "SUCCEEDED"),
        ("failed", attempt("ended", end="exited"), "FAILED"),
        ("timed_out", attempt("ended", end="timed_out"), "FAILED"),
        ("cancelled", None, "STOPPED"),
    ],
)
def test_statuses(state: str, last: TaskAttempt | None, status: str) -> None:
    ended_at = AT if status in ("SUCCEEDED", "FAILED", "STOPPED") else None
    assert details(task(state, ended_at=ended_at), last, None).status == JobStatus(status)


def test_messages() -> None:
    waiting = details(task("queued"), None, WAIT).message
    assert waiting == (
        "Job has not started yet. Your customer's quota is used up. Number 3 in the queue."
        " Expected to start at 2026-11-26 13:30 UTC (estimate)."
    )
    assert details(task("queued"), None, WaitOut.of(None)).message.endswith(
        "yet. It waits for the scheduler to look at it."
    )
    assert details(task("queued", detail="It is tried again."), None, None).message.endswith("yet. It is tried again.")
    pulling = details(task("starting"), attempt("starting", phase="pulling"), WAIT).message
    assert pulling == "Job has not started yet. It is being started: pulling."
    progress = {"fraction": 0.25, "line": "epoch 1"}
    assert details(task("running", progress=progress), None, None).message == "Job is currently running. 25% epoch 1"
    failed = details(task("failed", detail="It ended with exit code 3.", ended_at=AT), None, None).message
    assert failed == "Job failed. It ended with exit code 3."


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("exited", "JOB_ENTRYPOINT_COMMAND_ERROR"),
        ("out_of_memory", "JOB_ENTRYPOINT_COMMAND_ERROR"),
        ("setup_failed", "RUNTIME_ENV_SETUP_FAILURE"),
        ("image_missing", "JOB_ENTRYPOINT_COMMAND_START_ERROR"),
        ("host_lost", "JOB_SUPERVISOR_ACTOR_DIED"),
    ],
)
def test_errors_and_exit_codes(end: str, error: str) -> None:
    found = details(task("failed", ended_at=AT, exit_code=3), attempt("ended", end=end, exit_code=3), None)
    assert (found.error_type, found.driver_exit_code, found.end_time) == (error, 3, AT_MS)
    assert details(task("succeeded", ended_at=AT, exit_code=0), attempt("ended", end="exited"), None).error_type is None
    assert details(task("queued", exit_code=3), attempt("ended", end=end), None).driver_exit_code is None


def test_the_version_is_the_installed_rays() -> None:
    found = installed()
    assert (found.version, found.ray_version, found.ray_commit) == (CURRENT_VERSION, ray.__version__, ray.__commit__)
