"""The daemon's time, spool and leases on a real SQLite file, with clocks that the test turns."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.daemon.clock import ServerClock
from node.daemon.config import HostConfig, HostDirectory, config_toml, read_config
from node.daemon.leases import HeldLease, LeaseEndedError, Leases, LeaseState, StaleGenerationError
from node.daemon.meter import Meter
from node.daemon.spool import Spool, SpoolFullError
from node.daemon.store import Store
from node.gpus.simulated import SimulatedGpus
from scheduler.host_protocol import DeviceShare, Lease, UsageWindow, WindowId


class Clocks:
    boot_ms = 1_000.0
    wall_ms = 1_700_000_000_000.0

    def advance(self, ms: float) -> None:
        self.boot_ms += ms
        self.wall_ms += ms

    def server(self, store: Store, boot_id: str = "boot-1") -> ServerClock:
        return ServerClock(store, boot_id, boot=lambda: self.boot_ms, wall=lambda: self.wall_ms)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "spool.sqlite")
    yield store
    store.close()


def a_lease(generation: int = 1) -> Lease:
    return Lease("a", generation, "c", (DeviceShare("G", 1000),), 1000, 2**30, 2**30, 64, 2 * 10**12, "image", "name")


def window(sequence: int = -1) -> UsageWindow:
    return UsageWindow("boot-1", sequence, "a", 1, "c", "G", 1000, 0, 1)


def test_steps_of_the_wall_clock_change_no_duration(store: Store) -> None:
    clocks = Clocks()
    clock = clocks.server(store)
    clock.learn(5_000_000, clocks.boot_ms, clocks.boot_ms)
    clocks.advance(10_000)
    clocks.wall_ms -= 3_600_000
    assert clock.now_ms() == 5_010_000
    assert clocks.server(store).now_ms() == 5_010_000  # the next daemon of this boot


def test_a_step_of_the_servers_clock_is_followed_slowly(store: Store) -> None:
    clocks = Clocks()
    clock = clocks.server(store)
    clock.learn(5_000_000, clocks.boot_ms, clocks.boot_ms)
    clocks.advance(10_000)
    clock.learn(4_000_000, clocks.boot_ms, clocks.boot_ms)
    assert clock.now_ms() == 5_010_000 - 5


def test_spool_is_bounded_and_numbers_survive_acknowledgement(store: Store) -> None:
    spool = Spool(store, "boot-1", capacity=2)
    spool.add([window(), window()], last=False)
    with pytest.raises(SpoolFullError):
        spool.add([window()], last=False)
    spool.acknowledge("boot-1", 1)
    assert spool.read(10).windows == ()
    Spool(store, "boot-1").add([window()], last=False)
    assert [each.sequence for each in spool.read(10).windows] == [2]


def test_the_last_windows_have_room_in_a_full_spool(store: Store) -> None:
    spool = Spool(store, "boot-1", capacity=1)
    spool.add([window()], last=False)
    spool.add([window()], last=True)
    assert spool.backlog() == 2


def test_the_last_window_of_a_lease_is_known_until_it_is_shipped(store: Store) -> None:
    """Over boots, and beside other leases and generations."""
    spool = Spool(store, "boot-1")
    spool.add([window(), window(), replace(window(), generation=2)], last=False)
    assert spool.last_of("a", 1) == WindowId("boot-1", 1)
    assert spool.last_of("b", 1) is None
    later = Spool(store, "boot-2")
    assert later.last_of("a", 1) == WindowId("boot-1", 1)
    later.add([window()], last=True)
    assert later.last_of("a", 1) == WindowId("boot-2", 0)
    later.acknowledge("boot-2", 0)
    later.acknowledge("boot-1", 1)
    assert later.last_of("a", 1) is None and later.last_of("a", 2) == WindowId("boot-1", 2)


def test_generations_fence(store: Store) -> None:
    leases = Leases(store)
    leases.grant(a_lease(2))
    with pytest.raises(StaleGenerationError):
        leases.grant(a_lease(1))
    leases.begin_end("a", 2)
    leases.finish_end("a", 1, 0)
    with pytest.raises(LeaseEndedError):
        leases.grant(a_lease(2))
    assert leases.grant(a_lease(3)).lease.generation == 3
    leases.begin_end("a", 2)
    assert leases.get("a", 3).state == LeaseState.ACTIVE


def test_a_new_boot_extends_nothing_of_the_old_one(store: Store) -> None:
    clocks = Clocks()
    started = "2023-11-14T22:13:20Z"  # the wall clock's time
    inspected = {"Id": "c", "State": {"StartedAt": started, "FinishedAt": "0001-01-01T00:00:00Z", "Running": True}}
    held: HeldLease = Leases(store).grant(a_lease())
    first = clocks.server(store)
    spool = Spool(store, "boot-1")
    Meter(store, spool, first, Leases(store)).observe(inspected, first.now_ms(), held)
    clocks.advance(6_000)
    Meter(store, spool, first, Leases(store)).observe(inspected, first.now_ms(), held)
    assert [each.to_ms - each.from_ms for each in spool.read(10).windows] == [6_000]
    clocks.advance(60_000)
    clocks.boot_ms = 10.0
    second = clocks.server(store, "boot-2")
    after = Meter(store, Spool(store, "boot-2"), second, Leases(store))
    assert after.observe(inspected, second.now_ms(), held) is None
    assert len(spool.read(10).windows) == 1


def test_a_step_of_the_wall_clock_after_the_end_bills_nothing_more(store: Store) -> None:
    """The wall clock was ahead, is set back by an hour after the exit, and only then Docker is asked."""
    clocks = Clocks()
    clock, spool = clocks.server(store), Spool(store, "boot-1")
    clock.learn(1_700_000_000_000, clocks.boot_ms, clocks.boot_ms)
    meter, held = Meter(store, spool, clock, Leases(store)), Leases(store).grant(a_lease())
    state = {"StartedAt": "2023-11-14T22:13:20Z", "FinishedAt": "0001-01-01T00:00:00Z", "Running": True}
    meter.observe({"Id": "c", "State": state}, clock.now_ms(), held)
    clocks.advance(10_000)
    clocks.wall_ms -= 3_600_000
    exited = {**state, "FinishedAt": "2023-11-14T22:13:30Z", "Running": False}
    run = meter.observe({"Id": "c", "State": exited}, clock.now_ms(), held)
    assert run is not None and run.finished_ms == clock.now_ms()
    assert [each.to_ms - each.from_ms for each in spool.read(10).windows] == [10_000]


def test_simulated_gpus_are_stable_and_marked() -> None:
    gpus = SimulatedGpus("2:A100-80GB", "host")
    assert gpus.facts() == SimulatedGpus("2:A100-80GB", "host").facts()
    assert {gpu.memory_bytes for gpu in gpus.facts()} == {80 * 2**30}
    assert all(reading.simulated and reading.power_mw is None for reading in gpus.readings())
    with pytest.raises(ValueError, match="can't be read"):
        SimulatedGpus("0:A100", "host")


def test_config_is_read_as_written(tmp_path: Path) -> None:
    config = HostConfig(host_id="h-1", name='a"b', internal_url="https://x:1", tenant_ports=(1, 2), simulate="1:A")
    directory = HostDirectory(tmp_path)
    directory.write("host.toml", config_toml(config))
    assert read_config(directory) == config
    assert (tmp_path / "host.toml").stat().st_mode & 0o777 == 0o600
