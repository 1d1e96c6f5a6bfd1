"""Real controller processes over PostgreSQL and Ray: one leads, and what it does outlives it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from api.allocations.tables import Allocation
from api.clock import utc_now
from api.db import Database
from api.machines.tables import Host
from cluster.connection import disconnect
from cluster.fabric import find_group, remove_orphans
from cluster.membership import Membership
from deploy.postgres import EmbeddedPostgres
from scheduler.states import AllocationState, DeviceStatus, EndReason
from tests.db.fleet import GIB, Fleet
from tests.process.conftest import connected
from tests.process.ray_cluster import REPOSITORY, RayCluster, host_uid
from tests.waiting import wait_for


class Controller:
    """One process, with a socket and a log of its own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.socket = directory / "hostlink.sock"
        self.log = directory / "log"
        directory.mkdir()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.process.echo_controller"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={**environment, "REMOTEGPU_HOSTLINK_SOCKET": str(self.socket)},
            )  # fmt: skip

    def metric(self, name: str) -> float | None:
        # Not httpx: it leaks the socket of a connection that is refused.
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(2)
            connection.connect(str(self.socket))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            lines = b"".join(iter(lambda: connection.recv(65536), b"")).decode().splitlines()
            return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), None)
        return None

    @property
    def serves(self) -> bool:
        return self.metric("remotegpu_controller_leader") is not None

    @property
    def leads(self) -> bool:
        return self.metric("remotegpu_controller_leader") == 1

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Start = Callable[[], Controller]


@pytest.fixture
def start(
    cluster: RayCluster, postgres: EmbeddedPostgres, database_name: str, scratch: Path, tmp_path: Path
) -> Iterator[Start]:
    secrets_dir = scratch / f"s-{database_name}"
    secrets_dir.mkdir(mode=0o700)
    (secrets_dir / "ray_token").write_text(cluster.token_file.read_text())
    (secrets_dir / "hub_api_token").write_text("nobody listens")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "PYTHONPATH": str(REPOSITORY),
        "REMOTEGPU_DATABASE_URL": postgres.url(database_name),
        "REMOTEGPU_SECRETS_DIR": str(secrets_dir),
        "REMOTEGPU_RAY_ADDRESS": cluster.address,
        "REMOTEGPU_HUB_API_URL": "http://127.0.0.1:9/hub/api",
    }
    started: list[Controller] = []

    def start() -> Controller:
        controller = Controller(scratch / f"c{len(started)}-{database_name}", environment)
        started.append(controller)
        wait_for(lambda: controller.serves or controller.process.poll() is not None, timeout_s=60, what="a controller")
        assert controller.process.poll() is None, controller.log.read_text()[-3000:]
        return controller

    yield start
    for controller in started:
        controller.kill()


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """Both hosts of the cluster, with a customer's price; they are heard of for the whole test."""
    fleet = Fleet(database)
    fleet.price()
    for number in (1, 2):
        host = fleet.host(f"h{number}", gpus=2, cpu=8, memory_gib=7)
        database.transact(lambda session, number=number, host=host: _adopt(session.get_one(Host, host.id), number))  # type: ignore[misc]  # mypy does not infer lambdas with defaults
    return fleet


def _adopt(host: Host, number: int) -> None:
    host.uid = type(host.uid)(host_uid(number))
    host.heartbeat_at = utc_now() + timedelta(hours=1)


@pytest.fixture(autouse=True)
def nothing_left(membership: Membership) -> Iterator[None]:
    yield
    remove_orphans(frozenset(), prefix="rg-")


def submit(fleet: Fleet, name: str = "acme") -> Allocation:
    return fleet.submit(fleet.customer(name), cpu_milli=1000, memory_bytes=GIB)


def await_state(fleet: Fleet, allocation: Allocation, state: AllocationState, *, timeout_s: float = 15) -> None:
    wait_for(lambda: fleet.allocation(allocation.id).state == state, timeout_s=timeout_s, what=f"allocation {state}")


def test_a_request_is_placed_and_released(start: Start, fleet: Fleet) -> None:
    controller = start()
    wait_for(lambda: controller.leads, timeout_s=10, what="leading")
    wait_for(lambda: _known_to_ray(fleet), timeout_s=15, what="hosts of the database known to be in Ray")
    allocation = submit(fleet)
    await_state(fleet, allocation, AllocationState.ACTIVE)
    (group,) = fleet.groups()
    assert find_group(group) is not None
    fleet.end(allocation, EndReason.CANCELLED)
    await_state(fleet, allocation, AllocationState.RELEASED)
    assert not fleet.open_device_rows()
    assert (controller.metric("remotegpu_scheduler_admissions_total") or 0) >= 1
    assert (controller.metric('remotegpu_scheduler_decisions_total{reason="placed"}') or 0) >= 1
    assert (controller.metric("remotegpu_scheduler_cycle_seconds_count") or 0) >= 1
    assert controller.metric("remotegpu_scheduler_queue_depth") == 0


def test_the_standby_takes_over_from_a_killed_leader(start: Start, fleet: Fleet) -> None:
    first = start()
    wait_for(lambda: first.leads, timeout_s=10, what="leading")
    second = start()
    kept = submit(fleet)
    await_state(fleet, kept, AllocationState.ACTIVE)
    assert first.leads and not second.leads
    first.kill()
    wait_for(lambda: second.leads, timeout_s=5, what="the standby to lead")
    later = submit(fleet, "next")
    await_state(fleet, later, AllocationState.ACTIVE)
    assert fleet.allocation(kept.id).state == AllocationState.ACTIVE
    assert all(find_group(name) is not None for name in fleet.groups())


def test_a_leader_killed_in_the_middle_is_continued(start: Start, fleet: Fleet) -> None:
    first = start()
    wait_for(lambda: first.leads, timeout_s=10, what="leading")
    allocations = [submit(fleet, f"c{number}") for number in range(4)]
    first.kill()
    start()
    for allocation in allocations:
        await_state(fleet, allocation, AllocationState.ACTIVE, timeout_s=30)
    assert len({row.gpu_id for row in fleet.open_device_rows()}) == 4


def test_orphans_are_removed_at_take_over(start: Start, fleet: Fleet, membership: Membership) -> None:
    from ray.util.placement_group import placement_group

    orphan = placement_group([{"gpu-GPU-h1-0": 1}], name="rg-of-nobody-1", lifetime="detached")
    assert orphan.wait(10)
    start()
    wait_for(lambda: find_group("rg-of-nobody-1") is None, timeout_s=15, what="the orphan to go")


def test_it_ends_in_order(start: Start, fleet: Fleet) -> None:
    controller = start()
    wait_for(lambda: controller.leads, timeout_s=10, what="leading")
    controller.process.terminate()
    assert controller.process.wait(timeout=15) == 0
    entries = [json.loads(line) for line in controller.log.read_text().splitlines() if line.startswith("{")]
    assert any("leading" in entry["message"] for entry in entries)
    assert not [entry for entry in entries if entry["level"] == "error"], entries


def test_without_ray_it_ends_to_be_started_again(
    cluster: RayCluster, membership: Membership, start: Start, fleet: Fleet
) -> None:
    controller = start()
    membership.stop()
    disconnect()  # this process is a driver too, and its calls would hang
    cluster.kill("head")
    try:
        code = controller.process.wait(timeout=25)
    finally:
        cluster.start_head()
        connected(cluster).stop()
    assert code == 75, controller.log.read_text()[-3000:]
    again = start()
    wait_for(lambda: again.leads, timeout_s=15, what="leading")


def test_a_lost_lock_ends_the_leader(start: Start, fleet: Fleet, database: Database) -> None:
    controller = start()
    wait_for(lambda: controller.leads, timeout_s=10, what="leading")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted"
        )
    assert controller.process.wait(timeout=15) == 75


def _known_to_ray(fleet: Fleet) -> bool:
    return all(host.ray_node_id and host.device_status == DeviceStatus.ONLINE for host in fleet.rows(Host))
