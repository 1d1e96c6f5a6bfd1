"""How leases and their containers end, whatever Docker answers and whoever comes first. Docker alone is replaced."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import pytest

from node.daemon.clock import ServerClock
from node.daemon.containers import Containers
from node.daemon.ending import Ending
from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, HOST_LABEL, Engine
from node.daemon.leases import Leases, LeaseState
from node.daemon.meter import Meter
from node.daemon.networks import Networks
from node.daemon.spool import Spool
from node.daemon.store import Store
from node.daemon.watch import Watch
from scheduler.host_protocol import DeviceShare, Lease
from tests.waiting import wait_for

LABELS = {HOST_LABEL: "h", ALLOCATION_LABEL: "a", GENERATION_LABEL: "1"}


class OnceFailingDocker:
    """A container that ran from 4 s to 1 s ago, and an engine that fails at the first attempt to stop it."""

    def __init__(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
        self.started, self.finished = (f"{(now - timedelta(seconds=ago)).isoformat()}Z" for ago in (4, 1))
        self.stops = 0
        self.removed = False

    def containers(self, **_: object) -> list[dict[str, Any]]:
        return [] if self.removed else [{"Id": "c", "State": "running", "Labels": LABELS}]

    def inspect_container(self, _: str) -> dict[str, Any]:
        state = {"StartedAt": self.started, "FinishedAt": self.finished, "Running": self.stops < 2}
        return {"Id": "c", "Config": {"Labels": LABELS}, "State": state | {"Paused": False, "ExitCode": 0}}

    def stop(self, _: str, *, timeout: int) -> None:
        self.stops += 1
        if self.stops == 1:
            raise docker.errors.APIError("the engine is being restarted")

    def remove_container(self, _: str, **__: object) -> None:
        self.removed = True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "spool.sqlite")
    yield store
    store.close()


@dataclass(frozen=True)
class Parts:
    leases: Leases
    spool: Spool
    ending: Ending
    watch: Watch


def make_parts(store: Store, directory: Path, api: OnceFailingDocker) -> Parts:
    engine = Engine.__new__(Engine)
    engine.host_id, engine.api = "h", api
    clock, leases, spool = ServerClock(store, "boot-1"), Leases(store), Spool(store, "boot-1")
    meter = Meter(store, spool, clock, leases)
    containers = Containers(engine, directory, simulated=True, publish_address="127.0.0.1", quota=False)
    networks = Networks(engine, address_range="10.0.0.0/24", spares=0)
    ending = Ending(engine, leases, containers, networks, meter, spool, clock, lambda: None)
    watch = Watch(engine, leases, meter, clock, ending, None, grace_s=0, on_change=lambda: None)
    return Parts(leases, spool, ending, watch)


def a_lease(run_until_ms: int) -> Lease:
    return Lease("a", 1, "c", (DeviceShare("G", 1000),), 1000, 2**30, 2**30, 64, run_until_ms, "image", "name")


@pytest.mark.parametrize("run_until_ms", [0, 10**13], ids=["its time is over", "its time goes on"])
def test_an_end_that_failed_is_tried_again(store: Store, tmp_path: Path, run_until_ms: int) -> None:
    """Nobody renews it any more: what did not stop then would run on, unpaid and beyond its time."""
    api = OnceFailingDocker()
    parts = make_parts(store, tmp_path, api)
    parts.leases.grant(a_lease(run_until_ms))
    with pytest.raises(docker.errors.APIError):
        parts.ending.end("a", 1, grace_s=0)
    assert parts.leases.get("a", 1).state == LeaseState.ENDING
    parts.watch.tick()
    wait_for(lambda: parts.leases.get("a", 1).state == LeaseState.ENDED, timeout_s=30, what="the end of the lease")
    assert api.removed


def test_what_ran_is_billed_though_its_container_is_removed_at_once(store: Store, tmp_path: Path) -> None:
    """The Hub stops a container and removes it before the watch has looked."""
    api = OnceFailingDocker()
    api.stops = 1
    parts = make_parts(store, tmp_path, api)
    parts.ending.remove_container(parts.leases.grant(a_lease(10**13)))
    assert api.removed
    assert [each.to_ms - each.from_ms for each in parts.spool.read(10).windows] == [3_000]
