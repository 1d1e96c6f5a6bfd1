"""Workers of arrays on a real Docker Engine: elements given and told, whatever becomes of daemon and platform."""

from typing import Any

import pytest

from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for
from tests.process.daemon_tasks import Tasks


@pytest.fixture
def tasks(host: DaemonHost, platform: FakePlatform) -> Tasks:
    return Tasks(host, platform)


def work(tasks: Tasks, platform: FakePlatform, count: int, command: str, **order: Any) -> Any:
    """A worker's lease, with so many elements for it."""
    lease = tasks.lease(command, array=True, **order)
    platform.elements[lease["allocation_uid"]] = count
    tasks.grant(lease)
    return lease


def test_a_worker_runs_its_elements_and_ends(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    lease = work(tasks, platform, 200, "echo $TASK_INDEX; exit $((TASK_INDEX == 7))", timeout_s=60)
    uid = lease["allocation_uid"]
    ended = tasks.ended(lease, 60)
    assert (ended["end"], ended["exit_code"]) == ("exited", 0)
    results = platform.results(uid)
    assert sorted(results) == list(range(200)), "all is told before the end is"
    assert {place for place, result in results.items() if result["exit_code"] != 0} == {7}
    assert len(platform.elements_asked[uid]) < 60, "they are given and told in batches"
    wait_for(lambda: platform.text(uid).splitlines() == [str(index) for index in range(200)])
    last = results[199]
    assert platform.text(uid).encode()[last["log_from"] : last["log_to"]] == b"199\n"
    assert host.end_lease(lease)[0] == 200


def test_each_runs_once_whatever_becomes_of_daemon_and_platform(
    host: DaemonHost, platform: FakePlatform, tasks: Tasks
) -> None:
    lease = work(tasks, platform, 60, "echo $TASK_INDEX; sleep 0.1")
    uid = lease["allocation_uid"]
    wait_for(lambda: len(platform.results(uid)) > 5)
    host.end()
    host.start()
    wait_for(lambda: len(platform.results(uid)) > 20)
    platform.away = True
    host.end()
    host.start(healthy=False)
    platform.away = False
    tasks.ended(lease, 60)
    assert sorted(platform.results(uid)) == list(range(60))
    wait_for(lambda: len(platform.text(uid).splitlines()) >= 60)
    assert platform.text(uid).splitlines() == [str(index) for index in range(60)], "each once"
    assert host.end_lease(lease)[0] == 200


def test_an_element_beyond_its_memory_ends_alone(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    hungry = "python3 -c 'x = bytearray(10**9)'"
    lease = work(tasks, platform, 3, f"[ $TASK_INDEX != 1 ] || {hungry}", memory_mib=64)
    assert tasks.ended(lease)["exit_code"] == 0
    results = platform.results(lease["allocation_uid"])
    assert [results[place]["end"] for place in range(3)] == ["exited", "out_of_memory", "exited"]
    host.end_lease(lease)


def test_a_worker_that_gives_way_tells_what_it_has_done(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    lease = work(tasks, platform, 3, "[ $TASK_INDEX = 0 ] || exec sleep 1000")
    uid = lease["allocation_uid"]
    wait_for(
        lambda: any(each["place"] == 1 for asked in platform.elements_asked.get(uid, ()) for each in asked["started"])
    )
    host.end_lease(lease, grace_s=5, reason="preempted")
    assert sorted(platform.results(uid)) == [0]
    wait_for(lambda: host.inspect(lease) is None)
