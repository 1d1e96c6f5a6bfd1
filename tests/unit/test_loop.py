"""The loop, one behaviour at a time; `test_loop_faults` mixes them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.effects import Effects, delay_after
from scheduler.loop import Scheduler
from scheduler.policy import FirstComeFirstServed
from scheduler.ports import Admitted, FreeDevice, LostLeadershipError, QueuedRequest
from scheduler.simulated_fabric import Fault, Machine, MemoryFabric
from scheduler.simulated_store import MemoryStore, SimulatedHost
from scheduler.states import AllocationState, DeviceStatus, EndReason

GIB = 2**30


class Bench:
    """One host of four GPUs, and a scheduler whose effects are run by hand."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.store = store or MemoryStore(lambda: self.now)
        devices = tuple(FreeDevice(i, f"GPU-{i}", "NVIDIA A100-SXM4-80GB", 80 * GIB, 1000) for i in range(4))
        self.store.hosts[1] = SimulatedHost(1, "h1", 64_000, 512 * GIB, devices)
        self.fabric = MemoryFabric({"h1": Machine(64_000, 512 * GIB)})
        self.effects: list[Callable[[], None]] = []
        self.scheduler = Scheduler(
            self.store, self.fabric, policy=FirstComeFirstServed(), clock=lambda: self.now, spawn=self.effects.append
        )

    def submit(self, number: int, *, gpus: int = 1, customer_id: int = 1) -> None:
        queued_at = self.now + timedelta(milliseconds=number)
        self.store.submit(
            QueuedRequest(number, f"a{number}", customer_id, 0, queued_at, gpus, "A100", 1000, GIB, None, None)
        )

    def work(self) -> None:
        self.scheduler.cycle()
        while self.effects:
            self.effects.pop(0)()

    def state(self, number: int) -> AllocationState:
        return self.store.allocations[number].state


def test_a_request_goes_its_way() -> None:
    bench = Bench()
    bench.submit(1)
    assert bench.scheduler.cycle() == 1
    assert bench.state(1) is AllocationState.PLACING
    bench.work()
    assert bench.state(1) is AllocationState.ACTIVE
    bench.store.request_end(1, EndReason.COMPLETED)
    bench.work()
    assert bench.state(1) is AllocationState.RELEASED
    assert list(bench.fabric.groups) == ["rg-a1-1"], "kept for the next of its shape"


def test_an_effect_does_not_run_twice_at_once() -> None:
    bench = Bench()
    bench.submit(1)
    for _ in range(3):
        bench.scheduler.cycle()
    assert len(bench.effects) == 1


def test_what_ended_after_the_store_was_read_is_not_done_again() -> None:
    class LateStore(MemoryStore):
        """Answers what was true a moment ago: the effect that ran then has just finished."""

        def unfinished_placements(self) -> Sequence[Admitted]:
            answer = super().unfinished_placements()
            while bench.effects:
                bench.effects.pop(0)()
            return answer

    bench = Bench(LateStore(lambda: bench.now))
    bench.submit(1)
    bench.scheduler.cycle()
    bench.scheduler.cycle()
    assert bench.state(1) is AllocationState.ACTIVE
    assert bench.effects == []


def test_a_failed_grant_is_taken_back_and_tried_again_later() -> None:
    bench = Bench()
    bench.submit(1)
    bench.fabric.faults.extend([Fault.NONE, Fault.ANSWER_LOST])
    bench.work()
    assert bench.state(1) is AllocationState.QUEUED
    assert bench.fabric.machines["h1"].leases == {}
    assert bench.scheduler.cycle() == 0, "it backs off"
    bench.now += timedelta(seconds=2)
    bench.work()
    assert bench.state(1) is AllocationState.ACTIVE
    assert bench.store.allocations[1].generation == 2


def test_a_leader_of_yesterday_takes_nothing_back() -> None:
    class Deposed(MemoryStore):
        def unplace(self, allocation_id: int, *, generation: int, reason: str, retry_at: datetime) -> bool:
            raise LostLeadershipError

    bench = Bench(Deposed(lambda: bench.now))
    bench.submit(1)
    bench.fabric.faults.extend([Fault.NONE, Fault.ANSWER_LOST])
    bench.work()
    assert "a1" in bench.fabric.machines["h1"].leases, "the new leader may have made it active"


def test_release_waits_for_an_unreachable_host_and_not_for_a_lost_one() -> None:
    bench = Bench()
    bench.submit(1)
    bench.work()
    bench.fabric.machines["h1"].reachable = False
    bench.store.hosts[1].status = DeviceStatus.UNREACHABLE
    bench.store.request_end(1, EndReason.CANCELLED)
    for _ in range(5):
        bench.now += timedelta(seconds=60)
        bench.work()
    assert bench.state(1) is AllocationState.RELEASING
    assert bench.store.owners, "unknown is not gone"
    bench.store.hosts[1].status = DeviceStatus.LOST
    bench.now += timedelta(seconds=60)
    bench.work()
    assert bench.state(1) is AllocationState.RELEASED


def test_one_customers_quota_holds_up_nobody_else() -> None:
    bench = Bench()
    bench.store.quotas[1] = 1
    for number in range(1, 30):
        bench.submit(number)
    bench.submit(99, customer_id=2, gpus=3)
    assert bench.scheduler.cycle() == 2
    assert bench.state(99) is AllocationState.PLACING
    reasons = {a.wait.code for a in bench.store.allocations.values() if a.wait is not None}
    assert reasons <= {"quota", "no_capacity"}
    assert sum(a.wait is not None for a in bench.store.allocations.values()) == 28


def test_a_group_that_cannot_be_dropped_does_not_keep_the_others() -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2)
    bench.work()
    for number in (1, 2):
        bench.store.request_end(number, EndReason.COMPLETED)
    bench.work()
    bench.now += timedelta(seconds=31)
    bench.fabric.faults.append(Fault.FAILS)
    bench.work()
    assert list(bench.fabric.groups) == ["rg-a1-1"]
    bench.now += timedelta(seconds=2)
    bench.work()
    assert bench.fabric.groups == {}


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (7, 60), (10_000, 60)])
def test_delays_grow_to_a_minute(failures: int, seconds: int) -> None:
    assert delay_after(failures) == timedelta(seconds=seconds)


def test_failures_of_what_nobody_wants_are_forgotten() -> None:
    effects, now = Effects(), datetime(2026, 1, 1, tzinfo=UTC)
    assert effects.begin((1, 1), now)
    effects.fail((1, 1), now)
    assert not effects.begin((1, 1), now)
    effects.keep_only(set())
    assert effects.begin((1, 1), now)
