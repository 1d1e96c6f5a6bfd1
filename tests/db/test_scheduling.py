"""The loop over PostgreSQL: with threads, with crashes between effect and record, with a change of leaders."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.allocations.store import PostgresStore
from api.clock import utc_now
from api.db import Database
from scheduler.engine.engine import Engine
from scheduler.loop import Scheduler
from scheduler.ports import LostLeadershipError
from scheduler.simulated_fabric import Fault, Machine, MemoryFabric, SimulatedCrashError
from scheduler.states import EndReason
from tests.db.fleet import GIB, Fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


def scheduler(store: PostgresStore, fabric: MemoryFabric, spawn: Callable[[Callable[[], None]], None]) -> Scheduler:
    return Scheduler(store, fabric, Engine(), clock=utc_now, spawn=spawn)


def run(loop: Scheduler) -> None:
    """Cycle until there is nothing to do at once: what effects come to is recorded by the next cycle."""
    for _ in range(20):
        if not loop.cycle().unfinished:
            return
    raise AssertionError("it finds no end")


def at_once(effect: Callable[[], None]) -> None:
    effect()


def test_twelve_requests_pass_through_four_devices(fleet: Fleet) -> None:
    host = fleet.host()
    fabric = MemoryFabric({str(host.uid): Machine(32_000, 256 * GIB)})
    acme = fleet.customer()
    waiting = {fleet.submit(acme).id for _ in range(12)}
    store = fleet.lead()
    with ThreadPoolExecutor(4) as pool:
        loop = scheduler(store, fabric, lambda effect: pool.submit(effect))
        for _ in range(400):
            loop.cycle()
            assert len(fleet.open_device_rows()) <= 4
            for number in list(waiting):
                row = fleet.allocation(number)
                if row.state == "active":
                    fleet.end(row, EndReason.COMPLETED)
                if row.state == "released":
                    waiting.remove(number)
            if not waiting:
                break
    assert waiting == set()
    assert fleet.open_device_rows() == []
    assert len(fleet.groups()) < 12, "groups were handed on"


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
@pytest.mark.parametrize("step", [0, 1])
def test_a_crash_while_placing_is_repaired_by_the_next_leader(fleet: Fleet, step: int, fault: Fault) -> None:
    host = fleet.host()
    fabric = MemoryFabric({str(host.uid): Machine(32_000, 256 * GIB)})
    allocation = fleet.submit(fleet.customer())
    fabric.faults.extend([Fault.NONE] * step + [fault])
    old = fleet.lead()
    with pytest.raises(SimulatedCrashError):
        run(scheduler(old, fabric, at_once))
    assert fleet.allocation(allocation.id).state == "placing"
    run(scheduler(fleet.lead(), fabric, at_once))
    row = fleet.allocation(allocation.id)
    assert (row.state, row.generation) == ("active", 1)
    assert list(fabric.groups) == [f"rg-{allocation.uid}-1"]
    with pytest.raises(LostLeadershipError):
        run(scheduler(old, fabric, at_once))


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
def test_a_crash_while_releasing_is_repaired_by_the_next_leader(fleet: Fleet, fault: Fault) -> None:
    host = fleet.host()
    fabric = MemoryFabric({str(host.uid): Machine(32_000, 256 * GIB)})
    allocation = fleet.submit(fleet.customer())
    store = fleet.lead()
    run(scheduler(store, fabric, at_once))
    fleet.end(allocation, EndReason.COMPLETED)
    fabric.faults.append(fault)
    with pytest.raises(SimulatedCrashError):
        run(scheduler(store, fabric, at_once))
    assert len(fleet.open_device_rows()) == 1
    run(scheduler(fleet.lead(), fabric, at_once))
    assert fleet.allocation(allocation.id).state == "released"
    assert fleet.open_device_rows() == []
    assert fabric.machines[str(host.uid)].leases == {}


def test_everybody_who_waits_is_told_why(fleet: Fleet) -> None:
    host = fleet.host(gpus=2)
    fabric = MemoryFabric({str(host.uid): Machine(32_000, 256 * GIB)})
    acme, poor = fleet.customer(), fleet.customer("poor", dollars=0)
    unpaid = fleet.submit(poor)
    runs = fleet.submit(acme)
    large, larger = fleet.submit(acme, gpus=2), fleet.submit(acme, gpus=2, cpu_milli=8000)
    run(scheduler(fleet.lead(), fabric, at_once))
    assert fleet.allocation(runs.id).state == "active"
    told = [fleet.allocation(number).wait_reason or {} for number in (unpaid.id, large.id, larger.id)]
    assert [reason["code"] for reason in told[:2]] == ["balance", "no_capacity"]
    assert [reason["position"] for reason in told] == [1, 2, 3]
    assert told[1]["figures"]["wanted"] == 2
    assert told[1]["eta_basis"] == "estimate"
