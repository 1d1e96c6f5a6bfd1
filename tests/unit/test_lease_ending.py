"""A lease that began to end ends, whatever Docker answered the first time. Docker alone is replaced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from node.daemon.clock import ServerClock
from node.daemon.containers import Containers
from node.daemon.ending import Ending
from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, Engine
from node.daemon.leases import Leases, LeaseState
from node.daemon.meter import Meter
from node.daemon.networks import Networks
from node.daemon.spool import Spool
from node.daemon.store import Store
from node.daemon.watch import Watch
from scheduler.host_protocol import DeviceShare, Lease
from tests.waiting import wait_for

LABELS = {ALLOCATION_LABEL: "a", GENERATION_LABEL: "1"}


class OnceFailingDocker:
    """One running container, and an engine that fails at the first attempt to stop it."""

    def __init__(self) -> None:
        self.stops = 0
        self.removed = False

    def containers(self, **_: object) -> list[dict[str, Any]]:
        return [] if self.removed else [{"Id": "c", "State": "running", "Labels": LABELS}]

    def inspect_container(self, _: str) -> dict[str, Any]:
        started, finished = "2023-11-14T22:13:20Z", "2023-11-14T22:13:30Z"
        state = {
            "StartedAt": started,
            "FinishedAt": finished,
            "Running": self.stops < 2,
            "Paused": False,
            "ExitCode": 0,
        }
        return {"Id": "c", "State": state}

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


@pytest.mark.parametrize("run_until_ms", [0, 2 * 10**12], ids=["its time is over", "its time goes on"])
def test_an_end_that_failed_is_tried_again(store: Store, tmp_path: Path, run_until_ms: int) -> None:
    """Nobody renews it any more: what did not stop then would run on, unpaid and beyond its time."""
    engine = Engine.__new__(Engine)
    engine.host_id, engine.api = "h", OnceFailingDocker()
    clock, leases, spool = ServerClock(store, "boot-1"), Leases(store), Spool(store, "boot-1")
    meter = Meter(store, spool, clock, leases)
    containers = Containers(engine, tmp_path, simulated=True, publish_address="127.0.0.1", quota=False)
    networks = Networks(engine, address_range="10.0.0.0/24", spares=0)
    ending = Ending(engine, leases, containers, networks, meter, spool, clock, lambda: None)
    watch = Watch(engine, leases, meter, clock, ending, None, grace_s=0, on_change=lambda: None)
    leases.grant(Lease("a", 1, "c", (DeviceShare("G", 1000),), 1000, 2**30, 2**30, 64, run_until_ms, "image", "name"))
    with pytest.raises(docker.errors.APIError):
        ending.end("a", 1, grace_s=0)
    assert leases.get("a", 1).state == LeaseState.ENDING
    watch.tick()
    wait_for(lambda: leases.get("a", 1).state == LeaseState.ENDED, timeout_s=30, what="the end of the lease")
    assert engine.api.removed
