"""Tasks on a real Docker Engine: started by their leases, once; their ends; and daemons that come back."""

import pytest

from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost
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
