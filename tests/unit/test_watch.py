"""What the daemon reports of containers, from what Docker says of them."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node.daemon.clock import ServerClock
from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL
from node.daemon.leases import Leases
from node.daemon.meter import Meter
from node.daemon.spool import Spool
from node.daemon.store import Store
from node.daemon.watch import Watch
from scheduler.host_protocol import ContainerState, DeviceShare, Lease

LEASE = Lease("a", 1, "c", (DeviceShare("gpu", 1000),), 1000, 2**30, 2**30, 64, 10**15, "image", "name")


class Docker:
    """One container in the state that the test says, as the engine lists and shows it."""

    def __init__(self) -> None:
        self.state = "running"
        self.api = SimpleNamespace(inspect_container=lambda _: self._shown())

    def containers(self) -> list[dict[str, Any]]:
        labels = {ALLOCATION_LABEL: LEASE.allocation_uid, GENERATION_LABEL: str(LEASE.generation)}
        return [{"Id": "c1", "State": self.state, "Labels": labels}]

    def _shown(self) -> dict[str, Any]:
        now, running = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), self.state == "running"
        times = {"StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": now}
        return {"Id": "c1", "State": {"Running": running, "Paused": False, "ExitCode": 137, **times}}


def test_a_container_that_is_being_removed_has_not_ended_by_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    docker, clock, leases = Docker(), ServerClock(store, "boot"), Leases(store)
    leases.grant(LEASE)
    meter = Meter(store, Spool(store, "boot"), clock, leases)
    watch = Watch(
        docker, leases, meter, clock, None, None, grace_s=1, on_change=lambda: None  # type: ignore[arg-type]
    )  # fmt: skip
    seen = []
    for docker.state in ("running", "removing", "exited"):
        watch.tick()
        seen.append([report.state for report in watch.reports()])
    assert seen == [[ContainerState.RUNNING], [], [ContainerState.EXITED]]
    store.close()
