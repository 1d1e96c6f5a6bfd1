"""Tasks on a real Docker Engine: started by their leases, once; their ends; and daemons that come back."""

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from node.daemon.holders import HOLDER_LABEL
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for
from tests.process.daemon_tasks import Tasks


@pytest.fixture
def tasks(host: DaemonHost, platform: FakePlatform) -> Tasks:
    return Tasks(host, platform)


HOG = "python3 -c 'x = bytearray(10**9)'"


def test_ends_are_told_apart(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    leases = {
        "exit": tasks.lease("exit 7"),
        "code 137": tasks.lease("exit 137"),
        "signal": tasks.lease("kill -SEGV $$"),
        "memory": tasks.lease(f"exec {HOG}", memory_mib=64),
        "memory of a child": tasks.lease(f"{HOG}; exit 1", memory_mib=64),
        "memory, coped with": tasks.lease(f"{HOG}; true", memory_mib=64),
        "timeout": tasks.lease("sleep 300", timeout_s=1),
        "setup": tasks.lease("true", setup="exit 3"),
        "image": tasks.lease("true", image="rgtest-nowhere:1"),
        "order": tasks.lease("true"),
    }
    del platform.orders[leases["order"]["allocation_uid"]]
    for lease in leases.values():
        tasks.grant(lease)
    told = {name: tasks.ended(lease) for name, lease in leases.items()}
    keys = ("end", "exit_code", "signal", "limit_hit")
    found = {name: tuple(each[key] for key in keys) for name, each in told.items()}
    assert found == {
        "exit": ("exited", 7, None, None),
        "code 137": ("exited", 137, None, None),
        "signal": ("exited", None, 11, None),
        "memory": ("out_of_memory", None, 9, "memory: 64 MiB"),
        "memory of a child": ("out_of_memory", 1, None, "memory: 64 MiB"),
        "memory, coped with": ("exited", 0, None, None),
        "timeout": ("timed_out", None, 15, "timeout: 1 s"),
        "setup": ("setup_failed", 3, None, None),
        "image": ("image_missing", None, None, None),
        "order": ("start_failed", None, None, None),
    }
    assert "rgtest-nowhere:1" in told["image"]["detail"] and len(told["image"]["detail"]) > 30  # Docker's own words
    for lease in leases.values():
        assert host.end_lease(lease)[0] == 200
    wait_for(lambda: not any(host.inspect(lease) for lease in leases.values()))
    wait_for(lambda: not platform.beats[-1]["attempts"])  # heard, and forgotten
    wait_for(lambda: not [path for path in host.directory.tasks.iterdir() if not path.name.startswith("runner")])


def test_a_container_is_built_from_lease_and_order(host: DaemonHost, tasks: Tasks) -> None:
    volume = f"rgtest-{uuid.uuid4()}"
    lease = tasks.lease(
        "echo kept > /data/file; id -u; sleep 300",
        secrets={"TOKEN": "hush-hush"},
        mounts=[{"volume": volume, "path": "/data", "size_bytes": 2**30}],
    ) | {"shm_bytes": 32 * 2**20}
    tasks.grant(lease)
    tasks.running(lease)
    details = host.inspect(lease)
    limits = details["HostConfig"]
    assert (limits["Memory"], limits["PidsLimit"], limits["Privileged"], limits["ShmSize"]) == (2**27, 64, False, 2**25)
    assert (limits["CapDrop"], limits["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert limits["LogConfig"]["Type"] == "none" and not limits["PortBindings"]
    assert "hush" not in str(details)  # what Docker keeps on its disk
    assert {mount["Destination"]: mount["RW"] for mount in details["Mounts"]} == {
        "/data": True,
        "/run/remotegpu/allocation.json": False,
        "/run/remotegpu/in": False,
        "/run/remotegpu/in/secrets": False,
        "/run/remotegpu/out": True,
        "/run/remotegpu/runner": False,
    }
    secret = Path(next(m["Source"] for m in details["Mounts"] if m["Destination"] == "/run/remotegpu/in/secrets"))
    assert (secret / "TOKEN").read_text() == "hush-hush"
    assert host.end_lease(lease)[0] == 200
    assert not secret.exists()
    assert host.engine.api.inspect_volume(volume)
    wait_for(lambda: host.call("delete_volume", volume=volume) == (200, {}))  # its container goes a moment later


def test_a_grant_does_not_wait_and_is_repeatable(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    lease = tasks.lease("echo ran; sleep 300")
    platform.away = True
    began = time.monotonic()
    tasks.grant(lease)
    tasks.grant(lease)
    assert time.monotonic() - began < 2
    platform.away = False
    tasks.running(lease)
    tasks.grant(lease)
    assert platform.text(lease["allocation_uid"]).count("ran") <= 1
    assert host.end_lease(lease)[0] == 200
    wait_for(lambda: lease["allocation_uid"] in platform.whole)
    assert platform.text(lease["allocation_uid"]) == "ran\n"


def test_a_lease_that_runs_out_before_the_order_came_starts_nothing(
    host: DaemonHost, platform: FakePlatform, tasks: Tasks
) -> None:
    platform.away = True
    lease = tasks.lease("true") | {"run_until_ms": round(time.time() * 1000) + 2000}
    tasks.grant(lease)
    wait_for(lambda: host.call("health")[1]["leases"] == 0)
    platform.away = False
    wait_for(lambda: len(platform.beats) > 2)
    assert host.inspect(lease) is None and platform.orders_asked == []


COUNTED = "echo ran; trap 'exit 0' TERM; while :; do sleep 0.1; done"


def test_a_daemon_that_returns_adopts_what_runs(host: DaemonHost, platform: FakePlatform, tasks: Tasks) -> None:
    lease, short = tasks.run(COUNTED), tasks.run("sleep 1; exit 4")
    tasks.running(lease)
    tasks.running(short)
    container = host.inspect(lease)["Id"]
    host.end()
    wait_for(lambda: not host.inspect(short)["State"]["Running"])  # it ends while no daemon looks
    asked = len(platform.orders_asked)
    host.start()
    assert tasks.ended(short)["exit_code"] == 4
    assert tasks.running(lease)["phase"] == "running"
    assert host.inspect(lease)["Id"] == container
    host.engine.api.kill(container)
    assert (tasks.ended(lease)["end"], tasks.ended(lease)["signal"]) == ("exited", 9)
    assert len(platform.orders_asked) == asked
    for each in (lease, short):
        assert host.end_lease(each)[0] == 200


@pytest.mark.parametrize("moment_s", [0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5])
def test_a_command_runs_once_whenever_the_daemon_is_killed(
    host: DaemonHost, platform: FakePlatform, tasks: Tasks, moment_s: float
) -> None:
    lease = tasks.lease("echo ran")
    granting = threading.Thread(target=tasks.grant, args=(lease,))
    granting.start()
    granting.join()
    time.sleep(moment_s)  # not waited on: the moment is what is tried
    host.end()
    host.start()
    ended = tasks.ended(lease)
    assert (ended["end"], ended["exit_code"]) == ("exited", 0)
    assert host.end_lease(lease)[0] == 200
    wait_for(lambda: lease["allocation_uid"] in platform.whole)
    assert platform.text(lease["allocation_uid"]) == "ran\n"


def test_a_container_that_is_removed_is_not_started_again(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(COUNTED)
    tasks.running(lease)
    host.end()
    host.engine.api.remove_container(lease["container_name"], force=True)
    host.start()
    assert tasks.ended(lease)["end"] == "host_lost"
    wait_for(lambda: host.inspect(lease) is None)
    assert host.end_lease(lease)[0] == 200


def test_a_notice_and_its_grace(host: DaemonHost, tasks: Tasks) -> None:
    """It is told at once, may use its time, and a long grace holds nobody up."""
    saving = "trap 'echo saving; sleep 6; echo saved; exit 0' USR1; echo ready; while :; do sleep 0.1; done"
    lease = tasks.run(saving, signal="SIGUSR1")
    tasks.running(lease)
    began = time.monotonic()
    status, answer = host.end_lease(lease, grace_s=60, reason="preempted")
    assert (status, answer["code"]) == (409, "still_ending")
    assert time.monotonic() - began < 6
    assert "SIGUSR1" in tasks.running(lease)["notice"]
    status, answer = wait_for(lambda: ended_now(host, lease))
    assert status == 200 and time.monotonic() - began < 12
    report = tasks.ended(lease)
    assert (report["end"], report["exit_code"]) == ("exited", 0) and "SIGUSR1" in report["notice"]
    assert host.end_lease(lease, grace_s=60, reason="preempted") == (200, answer)


def ended_now(host: DaemonHost, lease: Any) -> Any:
    status, answer = host.end_lease(lease, grace_s=60, reason="preempted")
    return (status, answer) if status == 200 else None


def test_a_grace_goes_on_over_a_restart_and_ends_at_its_deadline(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    tasks.running(lease)
    began = time.monotonic()
    assert host.end_lease(lease, grace_s=9, reason="cancelled")[0] == 409
    host.end()
    host.start()
    assert host.inspect(lease)["State"]["Running"]
    wait_for(lambda: host.inspect(lease) is None)  # nobody asked again
    assert 8 < time.monotonic() - began < 16


def test_a_lease_that_runs_out_ends_its_task_without_the_platform(
    host: DaemonHost, platform: FakePlatform, tasks: Tasks
) -> None:
    lease = tasks.lease("trap '' TERM; while :; do sleep 0.1; done")
    lease["run_until_ms"] = round(time.time() * 1000) + 4000
    tasks.grant(lease)
    tasks.running(lease)
    platform.away = True
    wait_for(lambda: host.inspect(lease) is None)
    assert max(window["to_ms"] for window in host.windows()) == lease["run_until_ms"]
    platform.away = False
    assert "SIGTERM" in tasks.ended(lease)["notice"]  # still told, until it is heard


def test_a_network_whose_holder_is_gone_is_joined_all_the_same(host: DaemonHost, tasks: Tasks) -> None:
    first = tasks.run("true")
    assert tasks.ended(first)["exit_code"] == 0
    assert host.end_lease(first)[0] == 200
    wait_for(lambda: host.inspect(first) is None)
    for entry in host.engine.containers():
        assert HOLDER_LABEL in entry["Labels"]
        host.engine.api.kill(entry["Id"])
    again = [tasks.run("true") for _ in range(3)]
    for lease in again:
        assert tasks.ended(lease)["exit_code"] == 0
        assert host.end_lease(lease)[0] == 200


def test_too_much_on_the_disk_ends_it_and_output_counts(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.lease("head -c 80000000 /dev/zero > /run/remotegpu/out/more; sleep 300") | {"disk_bytes": 2**26}
    tasks.grant(lease)
    ended = tasks.ended(lease, timeout_s=60)
    assert ended["end"] == "disk_full" and "0.07 GiB" in ended["detail"]
    wait_for(lambda: not host.inspect(lease)["State"]["Running"])
    assert host.end_lease(lease)[0] == 200


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
