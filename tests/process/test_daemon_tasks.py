"""Tasks on a real Docker Engine: started by their leases, once; their ends; and daemons that come back."""

import pytest

from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for
from tests.process.daemon_tasks import Tasks


@pytest.fixture
def tasks(host: DaemonHost, platform: FakePlatform) -> Tasks:
    return Tasks(host, platform)


def test_a_command_runs_and_its_end_is_told(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run("exit 7")
    ended = tasks.ended(lease)
    assert (ended["end"], ended["exit_code"], ended["signal"]) == ("exited", 7, None)
    assert host.end_lease(lease)[0] == 200
    assert host.inspect(lease) is None


def test_output_is_shipped_to_its_end_whatever_becomes_of_the_daemon(
    host: DaemonHost, platform: FakePlatform, tasks: Tasks
) -> None:
    lease = tasks.run("for n in $(seq 1 300); do echo line $n; echo oops $n >&2; sleep 0.01; done")
    uid = lease["allocation_uid"]
    wait_for(lambda: "line 20\n" in platform.text(uid))
    host.end()
    host.start()
    tasks.ended(lease)
    platform.away = True
    assert host.end_lease(lease)[0] == 200
    host.end()
    host.start(healthy=False)
    platform.away = False
    wait_for(lambda: uid in platform.whole)
    lines = platform.text(uid).splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(1, 301)]
    assert [line for line in lines if line.startswith("oops")] == [f"oops {n}" for n in range(1, 301)]
    assert not any(record.dropped for record in platform.output[uid])
    wait_for(lambda: not list(host.directory.tasks.glob(f"{uid}.*")))
