"""The host daemon as a process on a real Docker Engine: leases, bills over `kill -9`, isolation, nothing left over."""

import itertools
import signal
import socket
import threading
import time
from typing import Any

import pytest

from node.agent import Agent
from node.daemon.engine import HOST_LABEL, docker_time_ms
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import IMAGE, DaemonHost, wait_for

SLEEP = ("sleep", "300")


def bill(windows: list[dict[str, Any]], lease: Any) -> dict[str, int]:
    """Milliseconds per device, after a check that windows follow each other without gap or overlap."""
    totals: dict[str, int] = {}
    for device in ("SIM-a", "SIM-b"):
        mine = [w for w in windows if w["allocation_uid"] == lease["allocation_uid"] and w["device_uuid"] == device]
        for before, after in itertools.pairwise(mine):
            assert before["to_ms"] == after["from_ms"]
        totals[device] = sum(window["to_ms"] - window["from_ms"] for window in mine)
    return totals


def test_container_is_built_from_its_lease(host: DaemonHost, platform: FakePlatform) -> None:
    lease = host.lease(volume=True)
    host.run(lease, *SLEEP)
    details = host.inspect(lease)
    limits = details["HostConfig"]
    assert (limits["NanoCpus"], limits["Memory"], limits["MemorySwap"]) == (500_000_000, 2**27, 2**27)
    assert (limits["PidsLimit"], limits["Privileged"], limits["CapDrop"]) == (64, False, ["ALL"])
    assert limits["SecurityOpt"] == ["no-new-privileges"] and limits["Init"] is True
    assert not limits["DeviceRequests"]
    assert details["Config"]["Image"] == IMAGE
    assert {m["Destination"]: m["RW"] for m in details["Mounts"]} == {
        "/home/jovyan": True,
        "/run/remotegpu/allocation.json": False,
    }
    assert "REMOTEGPU_DEVICES=SIM-a,SIM-b" in details["Config"]["Env"]
    assert host.container(lease, "port")[1][0]["HostIp"] == "127.0.0.1"
    wait_for(lambda: any(beat["containers"] for beat in platform.beats), timeout_s=5)
    assert platform.facts[0]["simulated"] is True
    assert host.end_lease(lease)[0] == 200
    assert host.inspect(lease) is None
    assert host.engine.api.inspect_volume(lease["home_volume"])  # it outlives the container
    assert host.call("delete_volume", volume=lease["home_volume"]) == (200, {})
    reserved = host.lease()
    host.call("grant_lease", **reserved)
    status, problem = host.container(
        reserved, "create_container", command=[], environment={"NVIDIA_VISIBLE_DEVICES": "all"}
    )
    assert (status, problem["code"]) == (422, "validation")


def test_a_replaced_container_is_not_the_end_of_its_lease(host: DaemonHost, platform: FakePlatform) -> None:
    """The Hub starts anew what a start before left behind: on that the platform must not end the environment."""
    lease = host.lease()
    host.run(lease, *SLEEP)
    for _ in range(3):
        replaced = host.inspect(lease)["Id"]
        wait_for(lambda id=replaced: ("running", id) in states(platform), timeout_s=20)
        assert host.container(lease, "remove_container")[0] == 200
        host.run(lease, *SLEEP)
    current = host.inspect(lease)["Id"]
    wait_for(lambda: ("running", current) in states(platform), timeout_s=20)
    assert {state for state, _ in states(platform)} <= {"created", "running"}
    host.engine.api.kill(current)  # its own end is reported as ever
    wait_for(lambda: ("exited", current) in states(platform), timeout_s=20)


def states(platform: FakePlatform) -> set[tuple[str, str]]:
    return {(report["state"], report["container_id"]) for beat in platform.beats for report in beat["containers"]}


def test_bill_is_the_run_time_over_kills_of_the_daemon(host: DaemonHost) -> None:
    lease = host.lease()
    host.run(lease, *SLEEP)
    host.end()
    host.start()
    wait_for(host.windows, timeout_s=10)
    host.end()
    assert host.inspect(lease)["State"]["Running"]
    host.engine.api.kill(lease["container_name"])  # it ends while no daemon looks
    state = host.inspect(lease)["State"]
    time.sleep(0.5)
    host.start()
    finished = docker_time_ms(state["FinishedAt"])
    started = docker_time_ms(state["StartedAt"])
    assert finished is not None and started is not None
    wait_for(lambda: abs(bill(host.windows(), lease)["SIM-a"] - (finished - started)) < 50, timeout_s=5)
    assert bill(host.windows(), lease)["SIM-b"] == bill(host.windows(), lease)["SIM-a"]
    status, ended = host.end_lease(lease)
    assert status == 200
    assert abs(ended["ended_at_ms"] - finished) < 100
    last = host.windows()[-1]
    assert ended["last_window"] == {"boot_id": last["boot_id"], "sequence": last["sequence"]}
    assert host.end_lease(lease) == (200, ended)
    total = bill(host.windows(), lease)["SIM-a"]
    assert abs(total - (finished - started)) < 50


def test_a_container_that_the_hub_removes_is_billed_to_its_end(host: DaemonHost) -> None:
    lease = host.lease()
    host.run(lease, *SLEEP)
    started = docker_time_ms(host.inspect(lease)["State"]["StartedAt"])
    before_ms = time.time() * 1000
    assert host.container(lease, "remove_container")[0] == 200
    assert host.inspect(lease) is None
    assert started is not None
    assert before_ms - started <= bill(host.windows(), lease)["SIM-a"] <= time.time() * 1000 - started
    assert host.container(lease, "remove_container")[1]["docker_status"] == 404


def test_run_until_is_enforced_without_the_platform(host: DaemonHost, platform: FakePlatform) -> None:
    lease = host.lease(run_s=4)
    host.run(lease, "python3", "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()")
    platform.stop()
    wait_for(lambda: host.inspect(lease) is None, timeout_s=12)
    assert time.time() * 1000 >= lease["run_until_ms"]
    assert max(window["to_ms"] for window in host.windows()) == lease["run_until_ms"]
    assert host.container(lease, "start")[1]["code"] == "lease_ended"


def test_a_renewed_lease_runs_on(host: DaemonHost, platform: FakePlatform) -> None:
    lease = host.lease(run_s=3)
    platform.run_until[lease["allocation_uid"]] = lease["run_until_ms"] + 60_000
    host.run(lease, *SLEEP)
    wait_for(lambda: time.time() * 1000 > lease["run_until_ms"] + 1500)
    assert host.inspect(lease)["State"]["Running"]


def test_an_older_generation_changes_nothing(host: DaemonHost) -> None:
    lease = host.lease(generation=2)
    host.run(lease, *SLEEP)
    older = {**lease, "generation": 1}
    assert host.call("grant_lease", **older)[0] == 409
    assert host.end_lease(older)[1]["code"] == "stale_generation"
    assert host.container(lease, "stop", generation=1, timeout=0)[0] == 409
    assert host.inspect(lease)["State"]["Running"]
    assert host.end_lease(lease)[0] == 200
    assert host.call("grant_lease", **lease)[1]["code"] == "lease_ended"
    assert host.call("grant_lease", **{**lease, "generation": 3}) == (200, {})


def test_adoption_ends_what_has_no_lease_and_nothing_of_others(host: DaemonHost) -> None:
    lease = host.lease()
    host.run(lease, *SLEEP)
    host.end()
    api = host.engine.api
    mine = api.create_container(IMAGE, list(SLEEP), labels={HOST_LABEL: host.config.host_id})["Id"]
    other = api.create_container(IMAGE, list(SLEEP), labels={HOST_LABEL: "somebody-else"})["Id"]
    try:
        host.start()
        names = {entry["Id"] for entry in api.containers(all=True)}
        assert mine not in names and other in names
        assert host.inspect(lease)["State"]["Running"]
    finally:
        api.remove_container(other, force=True)


def test_tenants_reach_the_allowed_ports_alone(host: DaemonHost, allowed: socket.socket) -> None:
    one, two = host.lease(), host.lease()
    host.run(one, "python3", "-m", "http.server", "8888")
    host.run(two, *SLEEP)
    networks = host.inspect(two)["NetworkSettings"]["Networks"]
    gateway = next(iter(networks.values()))["Gateway"]
    neighbour = next(iter(host.inspect(one)["NetworkSettings"]["Networks"].values()))["IPAddress"]
    published = host.container(one, "port")[1][0]["HostPort"]
    wait_for(lambda: _connects("127.0.0.1", int(published)))
    with socket.create_server(("0.0.0.0", 0)) as forbidden:
        threading.Thread(target=lambda: allowed.accept()[0].close(), daemon=True).start()
        assert host.reaches(two, gateway, allowed.getsockname()[1])
        assert not host.reaches(two, gateway, forbidden.getsockname()[1])
    assert not host.reaches(two, neighbour, 8888)
    assert not host.reaches(two, gateway, int(published))
    assert not host.reaches(two, "169.254.169.254", 80)
    assert "/var/run/docker.sock" not in str(host.inspect(two)["Mounts"])


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")  # httpcore
def test_agent_passes_operations_and_ships_usage(host: DaemonHost, platform: FakePlatform) -> None:
    lease = host.lease()
    host.run(lease, *SLEEP)
    agent = Agent(str(host.directory.path))
    try:
        assert agent.call("health", {})["body"]["leases"] == 1
        ended = agent.call("end_lease", {"allocation_uid": lease["allocation_uid"], "generation": 1, "grace_s": 0})
        assert ended["status"] == 200
        wait_for(lambda: len(platform.windows) >= 2)
        wait_for(lambda: host.windows() == [])
        host.end(signal.SIGTERM)
        assert agent.call("health", {})["status"] == 503
    finally:
        agent.close()
