"""The unmodified `ray job` and `JobSubmissionClient` against the API's own process, with no host to run anything."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.waits import record_waits
from api.db import Database
from api.identity import tokens
from api.identity.authentication import KEY_PREFIX
from api.identity.tables import ApiKey
from api.principal import Caller
from api.ray_jobs.variables import client_variables
from api.settings import Settings
from api.tasks import service as tasks
from api.tasks.tables import Task
from scheduler.ports import WaitReason
from tests.db.environment_world import Owner, World
from tests.db.fleet import Fleet
from tests.process.api_process import ApiProcess, running_api
from tests.waiting import wait_for

SCOPES = ["tasks:read", "tasks:write"]
TIMEOUT_S = 120
RAY = str(Path(sys.executable).parent / "ray")

SDK = """
import asyncio, json, sys
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient()
env = {"working_dir": sys.argv[1], "py_modules": [sys.argv[2]], "pip": ["emoji"], "env_vars": {"A": "1"}}
first = client.submit_job(
    entrypoint="python x.py", runtime_env=env, metadata={"owner": "me"}, entrypoint_num_gpus=1, entrypoint_num_cpus=2,
    entrypoint_memory=2**30, entrypoint_label_selector={"zone": "!in(a, b)"},
)
second = client.submit_job(entrypoint="true", runtime_env={"working_dir": sys.argv[1]}, submission_id="second")
found = client.get_job_info(first)

async def tail(job_id):
    return [text async for text in client.tail_job_logs(job_id)]

print(json.dumps({
    "version": client.get_version(),
    "ids": [first, second],
    "listed": [job.submission_id for job in client.list_jobs()],
    "status": found.status, "runtime_env": found.runtime_env, "metadata": found.metadata,
    "stopped": [client.stop_job(first), client.stop_job(first)],
    "then": client.get_job_status(first),
    "logs": [client.get_job_logs(first), asyncio.run(tail(first))],
    "deleted": client.delete_job(first),
}))
"""


@dataclass(frozen=True, slots=True)
class Site:
    api: ApiProcess
    database: Database
    owner: Owner
    home: Path

    def key(self, owner: Owner) -> str:
        secret = tokens.new_secret(KEY_PREFIX)
        key = ApiKey(
            customer_id=owner[0].id, user_id=owner[2].id, name="k", prefix=secret[:11],
            key_hash=tokens.hash_secret(secret), scopes=SCOPES,
        )  # fmt: skip
        self.database.transact(lambda session: session.add(key))
        return secret

    def environment(self, key: str) -> dict[str, str]:
        """As in a container, with a home of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {"HOME": str(self.home), "RAY_USAGE_STATS_ENABLED": "0", "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
        return inherited | own | client_variables(self.api.public_url, key)

    def run(self, command: list[str], key: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment(key), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            cwd=self.home,
        )  # fmt: skip

    def ray_job(self, key: str, *arguments: str) -> tuple[int, str]:
        """Its exit code, and what it said."""
        done = self.run([RAY, "job", *arguments], key)
        return done.returncode, done.stdout + done.stderr

    def task(self, submission_id: str) -> Task:
        with self.database.session() as session:
            return session.scalars(select(Task).where(Task.submission_id == submission_id)).one()


@pytest.fixture
def site(database: Database, tmp_path: Path, scratch: Path) -> Iterator[Site]:
    url = database.engine.url.render_as_string(hide_password=False)
    home = tmp_path / "home"
    home.mkdir()
    with running_api(url, tmp_path) as api:
        settings = Settings(database_url=url, secrets_dir=api.secrets_dir)
        world = World.make(Fleet(database), settings)
        world.host()
        yield Site(api, database, world.owner, home)


def note_wait(session: Session, task: Task) -> None:
    """What the scheduling loop has found, as the controller writes it."""
    assert task.allocation_id is not None
    reason = WaitReason("quota", "Your customer's quota is used up.", position=2)
    record_waits(session, {task.allocation_id: reason})


def test_the_command_line(site: Site) -> None:
    key, rival = site.key(site.owner), site.key(Fleet(site.database).customer("rival"))
    submit = ["submit", "--no-wait", "--submission-id", "mine", "--entrypoint-num-gpus", "1", "--metadata-json"]
    code, said = site.ray_job(key, *submit, '{"priority": "5"}', "--", "python", "x.py", "a b")
    assert code == 0 and "Job 'mine' submitted successfully" in said, said
    task = site.task("mine")
    assert (task.spec["command"], task.spec["priority"]) == ("python x.py 'a b'", 5)
    site.database.transact(lambda session: note_wait(session, task))
    code, said = site.ray_job(key, "status", "mine")
    assert code == 0 and "PENDING" in said and "quota is used up. Number 2 in the queue." in said, said
    code, said = site.ray_job(key, *submit, "{}", "--", "true")
    assert code != 0 and "already exists" in said, said
    code, said = site.ray_job(key, "delete", "mine")
    assert "non-terminal state" in said, said
    code, said = site.ray_job(rival, "status", "mine")
    assert code != 0 and "Job mine does not exist" in said, said
    code, said = site.ray_job(key, "stop", "mine")
    assert code == 0 and "was stopped" in said, said
    code, said = site.ray_job(key, "list")
    assert code == 0 and "submission_id='mine'" in said and "STOPPED" in said, said
    code, said = site.ray_job(key, "delete", "mine")
    assert code == 0 and "deleted successfully" in said, said


def test_the_client(site: Site, tmp_path: Path) -> None:
    work, module = tmp_path / "work", tmp_path / "module"
    for directory, name in ((work, "x.py"), (module, "__init__.py")):
        directory.mkdir()
        (directory / name).write_text("print('x')")
    key = site.key(site.owner)
    done = site.run([sys.executable, "-c", SDK, str(work), str(module)], key)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    first, second = found["ids"]
    assert (found["version"], second, found["listed"]) == ("4", "second", [first, "second"])
    assert (found["status"], found["metadata"], found["then"]) == ("PENDING", {"owner": "me"}, "STOPPED")
    assert (found["stopped"], found["deleted"], found["logs"]) == ([True, False], True, ["", []])
    given = found["runtime_env"]
    assert given["working_dir"].startswith("gcs://_ray_pkg_") and given["pip"]["packages"] == ["emoji"]
    assert done.stderr.count("Uploading package") == 2, "what is there is not sent again"
    task = site.task("second")
    assert task.working_dir is not None


def test_submitting_follows_while_the_job_waits(site: Site) -> None:
    key, said = site.key(site.owner), site.home / "said"
    command = [RAY, "job", "submit", "--submission-id", "mine", "--", "true"]
    with (
        said.open("wb") as file,
        subprocess.Popen(command, env=site.environment(key), stdout=file, stderr=file, cwd=site.home) as submitting,
    ):
        wait_for(lambda: "Tailing logs" in said.read_text(), timeout_s=TIMEOUT_S, what="the client to follow")
        assert submitting.poll() is None
        caller = Caller(site.owner[2].id, site.owner[0].id, "cli")
        site.database.transact(lambda session: tasks.cancel(session, caller, site.task("mine").uid))
        assert submitting.wait(TIMEOUT_S) == 0, said.read_text()
    assert "Job 'mine' was stopped" in said.read_text()


def test_what_is_refused_is_shown(site: Site) -> None:
    key = site.key(site.owner)
    code, said = site.ray_job(key, "submit", "--no-wait", "--entrypoint-resources", '{"TPU": 1}', "--", "true")
    assert code != 0 and "there is no resource 'TPU' here" in said, said
    code, said = site.ray_job("rgpu_wrong", "list")
    assert code != 0 and "Authentication required: The API key is unknown" in said, said
