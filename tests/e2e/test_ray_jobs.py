"""The unmodified `ray job` and `JobSubmissionClient` against a running platform, from outside and from inside."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.commands import Customer
from tests.e2e.conftest import Platform
from tests.e2e.tenant import container_of
from tests.waiting import wait_for

_TIMEOUT_S = 180
_RAY = str(Path(sys.executable).with_name("ray"))
_SMALL = ("--entrypoint-num-cpus", "0.5", "--entrypoint-memory", str(2**30))
_CLIENT = """
import json, sys
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient()
job = client.submit_job(
    entrypoint="python main.py", entrypoint_num_cpus=0.5, entrypoint_memory=2**30,
    runtime_env={"working_dir": sys.argv[1], "env_vars": {"A": "1"}}, metadata={"team": "vision"},
)
import asyncio
async def tail():
    return "".join([text async for text in client.tail_job_logs(job)])
print(json.dumps({
    "tail": asyncio.run(tail()), "status": client.get_job_status(job), "logs": client.get_job_logs(job),
    "metadata": client.get_job_info(job).metadata, "listed": job in [each.submission_id for each in client.list_jobs()],
}))
"""
_RAY_PROGRAM = """
import json, ray
ray.init(logging_level="ERROR")
found = ray.cluster_resources()
print("seen", json.dumps([found["CPU"], found["GPU"], len(ray.nodes())]))
print("did", ray.get(ray.remote(num_gpus=1)(lambda: 6 * 7).remote()))
"""
_INSIDE = """
import json, subprocess
from ray.job_submission import JobSubmissionClient
options = ["--entrypoint-num-cpus", "0.5", "--entrypoint-memory", str(2**30)]
done = subprocess.run(["ray", "job", "submit", *options, "--", "echo", "from inside"], capture_output=True, text=True)
print(json.dumps({"code": done.returncode, "said": done.stdout + done.stderr,
                  "listed": len(JobSubmissionClient().list_jobs())}))
"""


@dataclass(frozen=True, slots=True)
class Someone:
    """With a key, on a machine of their own."""

    address: str
    key: str
    home: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {
            "HOME": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_JOB_HEADERS": json.dumps({"Authorization": f"Bearer {self.key}"}),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.key,
        }
        return subprocess.run(
            command, env=inherited | own, cwd=self.home, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )

    def job(self, *arguments: str) -> tuple[int, str]:
        """Its exit code, and what it said."""
        done = self.run(_RAY, "job", *arguments)
        return done.returncode, done.stdout + done.stderr


def someone(platform: Platform, customer: Customer, home: Path) -> Someone:
    home.mkdir()
    made = customer.owner.json("api-key", "create", "jobs", "--scope", "tasks:read", "--scope", "tasks:write")
    return Someone(platform.public_url, made["key"], home)


@pytest.fixture(scope="module")
def ada(platform: Platform, lovelace: Customer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Someone]:
    yield someone(platform, lovelace, tmp_path_factory.mktemp("jobs") / "ada")


@pytest.fixture(scope="module")
def grace(platform: Platform, hopper: Customer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Someone]:
    yield someone(platform, hopper, tmp_path_factory.mktemp("jobs") / "grace")


def test_a_job_with_folder_packages_and_variables_runs_and_is_followed(ada: Someone, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, emoji; print(emoji.emojize(':rocket:') == '\\U0001F680', os.environ['A'], os.listdir('.'))\n"
    )
    environment = json.dumps({"pip": ["emoji"], "env_vars": {"A": "1"}})
    code, said = ada.job(
        "submit", "--submission-id", "train", "--working-dir", str(tmp_path), "--runtime-env-json", environment,
        "--entrypoint-num-gpus", "1", *_SMALL, "--", "python", "train.py",
    )  # fmt: skip
    assert code == 0 and "Job 'train' succeeded" in said, said
    assert "True 1 ['train.py']" in said, said
    code, said = ada.job("logs", "train")
    assert code == 0 and "True 1" in said
    code, said = ada.job("status", "train")
    assert "succeeded" in said


def test_a_job_that_fails_says_how(ada: Someone) -> None:
    code, said = ada.job("submit", "--submission-id", "bad", *_SMALL, "--", "sh", "-c", "echo no; exit 3")
    assert code != 0 and "no" in said and "exit code 3" in said, said


def test_a_job_is_stopped_listed_and_deleted(ada: Someone) -> None:
    code, said = ada.job("submit", "--no-wait", "--submission-id", "long", *_SMALL, "--", "sleep", "600")
    assert code == 0, said
    wait_for(lambda: "RUNNING" in ada.job("status", "long")[1], timeout_s=60, every_s=0.5, what="the job to run")
    code, said = ada.job("stop", "long")
    assert code == 0 and "was stopped" in said, said
    assert "STOPPED" in ada.job("list")[1]
    code, said = ada.job("delete", "long")
    assert code == 0 and "deleted" in said, said
    assert "does not exist" in ada.job("status", "long")[1]


def test_others_have_jobs_of_their_own(ada: Someone, grace: Someone) -> None:
    """The same id, and no sight of the other's."""
    code, said = grace.job("logs", "train")
    assert code != 0 and "Job train does not exist" in said, said
    code, said = grace.job("stop", "train")
    assert code != 0 and "does not exist" in said, said
    code, said = grace.job("submit", "--submission-id", "train", *_SMALL, "--", "echo", "mine")
    assert code == 0 and "mine" in said, said
    assert "mine" not in ada.job("logs", "train")[1]


def test_the_client_sees_a_job_through(ada: Someone, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import os; print('A is', os.environ['A'])\n")
    done = ada.run(sys.executable, "-c", _CLIENT, str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "tail": "A is 1\n", "status": "SUCCEEDED", "logs": "A is 1\n", "metadata": {"team": "vision"}, "listed": True,
    }  # fmt: skip


def test_ray_inside_a_job_sees_what_was_rented(ada: Someone, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(_RAY_PROGRAM)
    code, said = ada.job(
        "submit", "--working-dir", str(tmp_path), "--entrypoint-num-gpus", "2", "--entrypoint-num-cpus", "1",
        "--entrypoint-memory", str(3 * 2**30), "--", "python", "main.py",
    )  # fmt: skip
    assert code == 0 and "seen [1.0, 2.0, 1]" in said and "did 42" in said, said


def test_a_terminal_of_jupyterlab_submits_jobs(lovelace: Customer) -> None:
    size = ("--gpus", "1", "--gpu-model", "A100", "--cpus", "0.5", "--memory", "2GiB")
    environment = lovelace.owner.json("env", "create", "--name", "desk", *size, "--wait")
    try:
        found = container_of(environment).python(_INSIDE)
        assert found["code"] == 0 and "from inside" in found["said"], found
        assert found["listed"] >= 1
    finally:
        lovelace.owner.run("env", "rm", "desk", "--yes")
