"""A task with a Ray of its own, in the base image on a real engine."""

import textwrap

import pytest

from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for
from tests.process.daemon_tasks import Tasks

BASE = "remotegpu/base:1"
TOKEN = "7f" * 32
_STARTED_S = 240  # on a machine that does much else
_PROGRAM = """\
import os, subprocess, sys
import ray
ray.init(log_to_driver=False)
seen = ray.cluster_resources()
print(len(ray.nodes()), seen["CPU"], seen["GPU"], seen["object_store_memory"] <= 0.3 * 2**31)

@ray.remote(num_gpus=1)
def where(here):
    return os.environ["CUDA_VISIBLE_DEVICES"], os.getcwd() == here

print(ray.get(where.remote(os.getcwd())))
arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
print("raylet" in arguments, os.environ["RAY_AUTH_TOKEN"] in arguments)
print(os.environ["RAY_AUTH_TOKEN"])
stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
code = "import ray; ray.init()"
refused = subprocess.run([sys.executable, "-c", code], env=stranger, capture_output=True, text=True)
print(refused.returncode, "oken" in refused.stderr)
"""


@pytest.fixture
def tasks(host: DaemonHost, platform: FakePlatform) -> Tasks:
    return Tasks(host, platform)


def test_ray_sees_the_allocation_and_nothing_else(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    if not host.engine.api.images(name=BASE):
        pytest.skip(f"{BASE} is not there: remotegpud images build")
    command = f"python3 - <<'END'\n{textwrap.dedent(_PROGRAM)}END\n"
    order = {"ray": True, "secrets": {"RAY_AUTH_TOKEN": TOKEN}}
    lease = tasks.lease(command, image=BASE, memory_mib=2048, **order) | {"cpu_milli": 2000, "pids": 2000}
    tasks.grant(lease)
    assert tasks.ended(lease, _STARTED_S)["exit_code"] == 0, platform.text(lease["allocation_uid"])
    assert TOKEN not in str(host.inspect(lease))
    assert host.end_lease(lease)[0] == 200
    wait_for(lambda: lease["allocation_uid"] in platform.whole)
    lines = platform.text(lease["allocation_uid"]).splitlines()
    assert [line for line in lines if "INFO" not in line] == [
        "1 2.0 2.0 True", "('0', True)", "True False", "***", "1 True",
    ]  # fmt: skip
