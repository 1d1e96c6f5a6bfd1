"""Ray's interface for jobs over HTTP: statuses, texts and keys are Ray's own, and nobody sees another tenant's jobs."""

import json
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.billing.journal import top_up
from api.db import Database
from api.settings import Settings
from api.tasks.tables import Task
from scheduler.states import TaskState
from tests.db.conftest import Person, Tenant
from tests.db.fleet import DOLLAR
from tests.db.task_world import TaskWorld
from tests.db.upload_world import archive_of

ARCHIVE = archive_of(**{"x.py": "print(1)"})
PACKAGE = "/api/packages/gcs/_ray_pkg_0123456789abcdef.zip"
JOB: dict[str, Any] = {"entrypoint": "python x.py", "entrypoint_num_gpus": 1}


@pytest.fixture
def tasks(database: Database, settings: Settings, tenant: Tenant, other_tenant: Tenant) -> TaskWorld:
    for number, each in enumerate((tenant, other_tenant)):
        customer_id = each.customer.id
        database.transact(
            lambda session, customer_id=customer_id, number=number: top_up(
                session, customer_id=customer_id, amount_micro=1000 * DOLLAR, actor="cli", key=f"k{number}"
            )
        )
    return TaskWorld.make(database, settings, owner=(tenant.customer, tenant.workspace, tenant.owner.user))


class Client:
    """A person's requests to the gateway."""

    def __init__(self, client: TestClient, person: Person) -> None:
        self._client, self._person = client, person

    def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        headers = self._person.headers | sent.pop("headers", {})
        answer: httpx.Response = self._client.request(method, path, headers=headers, **sent)
        return answer

    def submit(self, **fields: Any) -> str:
        answer = self.ask("POST", "/api/jobs/", json=JOB | fields)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"job_id", "submission_id"}
        return str(answer.json()["submission_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/api/jobs/{job_id}").raise_for_status().json()
        return found

    def ids(self) -> list[str]:
        return [job["submission_id"] for job in self.ask("GET", "/api/jobs/").raise_for_status().json()]


@pytest.fixture
def owner(app_client: TestClient, tenant: Tenant, tasks: TaskWorld) -> Client:
    return Client(app_client, tenant.owner)


@pytest.fixture
def member(app_client: TestClient, tenant: Tenant, tasks: TaskWorld) -> Client:
    return Client(app_client, tenant.member)


@pytest.fixture
def rival(app_client: TestClient, other_tenant: Tenant, tasks: TaskWorld) -> Client:
    return Client(app_client, other_tenant.owner)


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text


def test_the_version(owner: Client) -> None:
    found = owner.ask("GET", "/api/version").raise_for_status().json()
    assert (found["version"], found["ray_version"]) == ("4", "2.60.0")


def test_a_job_is_a_task_that_waits(owner: Client, tasks: TaskWorld) -> None:
    given = {"runtime_env": {"env_vars": {"A": "1"}}, "metadata": {"priority": "7", "mine": "x"}}
    job_id = owner.submit(**given)
    assert job_id.startswith("raysubmit_")
    job = owner.job(job_id)
    assert (job["type"], job["status"], job["entrypoint"]) == ("SUBMISSION", "PENDING", "python x.py")
    assert (job["runtime_env"], job["metadata"]) == (given["runtime_env"], given["metadata"])
    assert job["message"].startswith("Job has not started yet. ")
    with tasks.database.session() as session:
        task = session.scalars(select(Task)).one()
        assert (task.submission_id, task.spec["priority"], task.spec["env"]) == (job_id, 7, {"A": "1"})


def test_it_runs_and_ends(owner: Client, tasks: TaskWorld) -> None:
    job_id = owner.submit()
    with tasks.database.session() as session:
        task = session.scalars(select(Task)).one()
    allocation = tasks.run(task)
    assert owner.job(job_id)["status"] == "RUNNING"
    tasks.end(allocation, exit_code=3)
    job = owner.job(job_id)
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 3)
    assert "exit code 3" in job["message"] and job["end_time"] >= job["start_time"]


def test_ids_are_unique_among_a_customers(owner: Client, member: Client, rival: Client) -> None:
    owner.submit(submission_id="mine")
    for client in (owner, member):
        said = refused(client.ask("POST", "/api/jobs/", json=JOB | {"submission_id": "mine"}), 400)
        assert said == "Job with submission_id mine already exists. Please use a different submission_id."
    assert rival.submit(submission_id="mine") == "mine"
    assert owner.submit(job_id="older") == "older"


def test_the_list_is_ones_own(owner: Client, member: Client, rival: Client, tasks: TaskWorld) -> None:
    mine, members = owner.submit(), member.submit()
    plain = tasks.one("plain")  # made elsewhere
    assert owner.ids() == [mine, members, str(plain.uid)]
    assert owner.job(str(plain.uid))["entrypoint"] == "true"
    assert (member.ids(), rival.ids()) == ([members], [])


def test_anothers_job_is_not_there(owner: Client, member: Client, rival: Client, tasks: TaskWorld) -> None:
    job_id, uid = owner.submit(submission_id="mine"), str(tasks.one("plain").uid)
    for client in (member, rival):
        for each in (job_id, uid, "no-such", "a" * 300, "%00"):
            for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("GET", "/logs")):
                said = refused(client.ask(method, f"/api/jobs/{each}{rest}"), 404)
                assert each == "%00" or said == f"Job {each} does not exist"
    assert owner.job(job_id)["status"] == "PENDING"


def test_stopping_takes_it_out_of_the_queue(owner: Client) -> None:
    job_id = owner.submit()
    assert owner.ask("POST", f"/api/jobs/{job_id}/stop").json() == {"stopped": True}
    job = owner.job(job_id)
    assert (job["status"], job["message"]) == ("STOPPED", "Job was intentionally stopped. It was stopped.")
    assert owner.ask("POST", f"/api/jobs/{job_id}/stop").json() == {"stopped": False}


def test_only_what_has_ended_is_deleted(owner: Client, tasks: TaskWorld) -> None:
    job_id = owner.submit(submission_id="mine")
    said = refused(owner.ask("DELETE", f"/api/jobs/{job_id}"), 400)
    assert said == "Attempted to delete job 'mine', but it is in a non-terminal state PENDING."
    owner.ask("POST", f"/api/jobs/{job_id}/stop").raise_for_status()
    assert owner.ask("DELETE", f"/api/jobs/{job_id}").json() == {"deleted": True}
    refused(owner.ask("GET", f"/api/jobs/{job_id}"), 404)
    assert owner.ids() == []
    with tasks.database.session() as session:
        task = session.scalars(select(Task)).one()
        assert task.state == TaskState.CANCELLED
    refused(owner.ask("GET", f"/api/jobs/{task.uid}"), 404)
    assert owner.submit(submission_id="mine") == "mine"  # its name is free again
    tasks.retry(task)
    assert len(owner.ids()) == 2  # another task than the one that was forgotten


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"not json", "JSON"),
        (b"[]", "dictionary"),
        (b"{}", "entrypoint: Field required"),
        (json.dumps(JOB | {"more": 1}), "more: Extra inputs are not permitted"),
        (json.dumps(JOB | {"metadata": {"a": 1}}), "metadata.a: "),
        (json.dumps(JOB | {"runtime_env": {"conda": "x"}}), "runtime_env.conda: not possible here"),
        (json.dumps(JOB | {"metadata": {"image": "no-such"}}), "There is no image 'no-such'"),
        (json.dumps(JOB | {"runtime_env": {"image_uri": "docker.io/x:1"}}), "There is no image 'docker.io/x:1'"),
        (json.dumps(JOB | {"metadata": {"workspace": "no-such"}}), "no-such"),
        (json.dumps(JOB | {"metadata": {"gpu_model": "H999"}}), "H999"),
        (json.dumps(JOB | {"metadata": {"priority": "999"}}), "priority"),
        (json.dumps(JOB | {"entrypoint": "a\0b"}), "entrypoint: must not contain a NUL"),
        (json.dumps(JOB | {"entrypoint": "true", "metadata": {"a": "\0"}}), "NUL"),
        (b'{"entrypoint": "true", "runtime_env": {"excludes": ["\\ud800"]}}', "can't be stored"),
    ],
)
def test_bad_jobs_are_refused_in_words(owner: Client, body: str | bytes, said: str) -> None:
    answer = owner.ask("POST", "/api/jobs/", content=body, headers={"Content-Type": "application/json"})
    assert said in refused(answer, 400)
    assert owner.ids() == []


def test_packages_are_a_customers_own(owner: Client, member: Client, rival: Client, tasks: TaskWorld) -> None:
    uri = "gcs://_ray_pkg_0123456789abcdef.zip"
    assert refused(owner.ask("GET", PACKAGE), 404) == f"Package {uri} does not exist"
    job = JOB | {"runtime_env": {"working_dir": uri}}
    assert refused(owner.ask("POST", "/api/jobs/", json=job), 400) == f"runtime_env: {uri} is not uploaded"
    answer = member.ask("PUT", PACKAGE, content=ARCHIVE)
    assert (answer.status_code, answer.content) == (200, b"")
    answer = owner.ask("GET", PACKAGE)
    assert (answer.status_code, answer.content) == (200, b"")
    refused(rival.ask("GET", PACKAGE), 404)
    refused(rival.ask("POST", "/api/jobs/", json=job), 400)
    assert owner.ask("PUT", PACKAGE, content=b"another").status_code == 200  # which is not looked at
    owner.submit(runtime_env={"working_dir": uri, "py_modules": [uri]})
    with tasks.database.session() as session:
        task = session.scalars(select(Task)).one()
        assert task.more["archives"] == [{"digest": task.working_dir, "target": "/tmp/ray_job/py_modules/0"}]


def test_bad_packages_are_refused(owner: Client, settings: Settings) -> None:
    assert "The archive is refused" in refused(owner.ask("PUT", PACKAGE, content=b"no zip"), 400)
    for path in ("gcs/x.tar.gz", "s3/x.zip", "gcs/..zip"):
        assert "only zip archives" in refused(owner.ask("PUT", f"/api/packages/{path}", content=ARCHIVE), 400)
    refused(owner.ask("GET", "/api/packages/gcs/x.tar.gz"), 404)


@pytest.mark.parametrize(
    "header", [{"User-Agent": "Mozilla/5.0"}, {"Origin": "http://evil.test"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_browsers_change_nothing(owner: Client, header: dict[str, str]) -> None:
    job_id = owner.submit()
    job = f"/api/jobs/{job_id}"
    for method, path in (("POST", "/api/jobs/"), ("POST", f"{job}/stop"), ("DELETE", job), ("PUT", PACKAGE)):
        said = refused(owner.ask(method, path, json=JOB, headers=header), 405)
        assert said == f"'{method}' method not allowed for browser traffic."
    assert owner.ask("GET", "/api/jobs/", headers=header).status_code == 200
    assert owner.ids() == [job_id]


def test_who_may_not_is_told_so_in_plain_text(app_client: TestClient, admin: Person) -> None:
    answer = app_client.get("/api/version")
    assert "Sign in first" in refused(answer, 401) and answer.headers["www-authenticate"] == "Bearer"
    refused(app_client.get("/api/jobs/", headers={"Authorization": "Bearer rgpu_wrong"}), 401)
    refused(app_client.get("/api/jobs/", headers=admin.headers), 403)
