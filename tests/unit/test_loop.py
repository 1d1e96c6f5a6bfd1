"""The loop, one behaviour at a time; `test_loop_faults` mixes them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from scheduler import effects
from scheduler.effects import AGAIN_AFTER, Effects, Result, delay_after
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.ports import Admitted, Changes, LostLeadershipError, Placement, WaitReason
from scheduler.quota import Limits
from scheduler.simulated_fabric import Fault
from scheduler.simulated_store import MemoryStore
from scheduler.states import AllocationState, DeviceStatus, EndReason
from scheduler.views import CustomerView
from tests.unit.simulated_world import A100, START, World, host


def world(*hosts_gpus: int) -> World:
    """Hosts of so many GPUs each; without any, one of four."""
    return World(Engine, *(host(i, *[A100] * gpus) for i, gpus in enumerate(hosts_gpus or (4,), start=1)))


def state(bench: World, number: int) -> AllocationState:
    return bench.database.allocations[number].state


def test_a_request_goes_its_way() -> None:
    bench = world()
    bench.submit(1)
    assert bench.scheduler.cycle().admitted == 1
    assert state(bench, 1) is AllocationState.PLACING
    bench.work()
    assert state(bench, 1) is AllocationState.ACTIVE
    bench.database.request_end(1, EndReason.COMPLETED)
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASED
    assert list(bench.fabric.groups) == ["rg-a1-1"], "kept for the next of its shape"


def test_what_starts_does_not_wait_for_the_reasons_of_others() -> None:
    begun: list[int] = []

    class Asked(Engine):
        def reasons(self) -> Mapping[int, WaitReason]:
            begun.append(len(bench.effects))
            return super().reasons()

    bench = World(Asked, host(1, A100))
    bench.submit(1)
    bench.submit(2)
    cycle = bench.scheduler.cycle()
    assert begun == [1]
    assert (cycle.admitted, sum(cycle.reasons.values())) == (1, 2)


def test_an_effect_does_not_run_twice_at_once() -> None:
    bench = world()
    bench.submit(1)
    for _ in range(3):
        bench.scheduler.cycle()
    assert len(bench.effects) == 1


def test_an_effect_that_ended_is_not_begun_again_before_it_is_recorded() -> None:
    bench = world()
    bench.submit(1)
    bench.scheduler.cycle()
    bench.run_effects()
    assert state(bench, 1) is AllocationState.PLACING
    bench.scheduler.cycle()
    assert (state(bench, 1), bench.effects) == (AllocationState.ACTIVE, [])


def test_what_could_not_be_recorded_is_recorded_later() -> None:
    class Failing(MemoryStore):
        fails = True

        def record(self, outcomes: Sequence[object]) -> Sequence[bool]:
            if self.fails:
                raise ConnectionError("the database restarts")
            return super().record(outcomes)  # type: ignore[arg-type]

    bench = world()
    store = bench.scheduler.store = Failing(bench.database, lambda: bench.now)
    bench.submit(1)
    bench.scheduler.cycle()
    bench.run_effects()
    with pytest.raises(ConnectionError):
        bench.scheduler.cycle()
    store.fails = False
    bench.scheduler.cycle()
    assert (state(bench, 1), bench.effects) == (AllocationState.ACTIVE, [])


def test_a_cycle_that_breaks_off_is_made_up_for() -> None:
    class Failing(MemoryStore):
        fails = True

        def admit(self, placements: Sequence[Placement]) -> Sequence[Admitted | WaitReason]:
            if self.fails:
                raise ConnectionError("the database restarts")
            return super().admit(placements)

    bench = world()
    store = bench.scheduler.store = Failing(bench.database, lambda: bench.now)
    bench.submit(1)
    with pytest.raises(ConnectionError):
        bench.scheduler.cycle()
    store.fails = False
    bench.work()
    assert state(bench, 1) is AllocationState.ACTIVE, "though the decider had counted it as placed"


def test_a_failed_grant_is_taken_back_and_tried_again_later() -> None:
    bench = world()
    bench.submit(1)
    bench.fabric.faults.extend([Fault.NONE, Fault.ANSWER_LOST])
    bench.work()
    assert state(bench, 1) is AllocationState.QUEUED
    assert bench.fabric.machines["h1"].leases == {}
    assert bench.scheduler.cycle().admitted == 0, "it backs off"
    bench.pass_time(2)
    bench.work()
    assert state(bench, 1) is AllocationState.ACTIVE
    assert bench.database.allocations[1].generation == 2


def test_a_gang_of_which_one_host_fails_is_taken_back_everywhere() -> None:
    bench = world(2, 2, 2)
    bench.submit(1, nodes=3, gpus=2)
    bench.fabric.faults.extend([Fault.NONE, Fault.NONE, Fault.NONE, Fault.FAILS])
    bench.scheduler.cycle()
    bench.run_effects()
    assert sorted(len(machine.leases) for machine in bench.fabric.machines.values()) == [0, 1, 1]
    bench.work()
    assert all(not machine.leases for machine in bench.fabric.machines.values())
    assert state(bench, 1) is AllocationState.QUEUED
    bench.pass_time(2)
    bench.work()
    assert [len(machine.leases) for machine in bench.fabric.machines.values()] == [1, 1, 1]


def test_a_gang_is_released_host_by_host_and_no_host_is_asked_again() -> None:
    bench = world(1, 1)
    bench.submit(1, nodes=2)
    bench.work()
    bench.fabric.machines["h2"].reachable = False
    bench.database.request_end(1, EndReason.COMPLETED)
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASING
    assert bench.database.owners[10], "all or nothing"
    bench.fabric.machines["h2"].reachable = True
    bench.pass_time(2)
    bench.scheduler.cycle()
    assert len(bench.effects) == 1, "h1 has confirmed"
    bench.run_effects()
    (result,) = bench.unrecorded()
    assert len(result.outcomes[0].ends) == 2  # type: ignore[union-attr]
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASED


def test_a_leader_of_yesterday_takes_nothing_back() -> None:
    bench = world()
    bench.submit(1)
    bench.fabric.faults.extend([Fault.NONE, Fault.ANSWER_LOST])
    yesterday = bench.scheduler
    yesterday.cycle()
    bench.run_effects()
    bench.lead()
    with pytest.raises(LostLeadershipError):
        yesterday.cycle()
    assert "a1" in bench.fabric.machines["h1"].leases, "the new leader may have made it active"
    bench.work()
    assert state(bench, 1) is AllocationState.ACTIVE


def test_a_new_leader_goes_on_where_the_last_one_was() -> None:
    bench = world(2)
    for number in (1, 2, 3):
        bench.submit(number)
    bench.work()
    bench.database.request_end(1, EndReason.COMPLETED)
    bench.scheduler.cycle()
    bench.lead()
    bench.work()
    states = [state(bench, number) for number in (1, 2, 3)]
    assert states == [AllocationState.RELEASED, AllocationState.ACTIVE, AllocationState.ACTIVE]


def test_no_more_is_looked_up_than_may_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that takes over much work does it in parts."""
    bench = world()
    for number in (1, 2, 3):
        bench.submit(number)
    bench.scheduler.cycle()
    bench.lead()
    monkeypatch.setattr(effects, "MAX_RUNNING", 2)
    asked: list[int] = []
    placing = bench.store.placing

    def look_up(allocation_ids: Sequence[int]) -> Sequence[Admitted]:
        asked.extend(allocation_ids)
        return placing(allocation_ids)

    monkeypatch.setattr(bench.store, "placing", look_up)
    bench.scheduler.cycle()
    assert asked == [1, 2]
    bench.work()
    assert [state(bench, number) for number in (1, 2, 3)] == [AllocationState.ACTIVE] * 3


def test_release_waits_for_an_unreachable_host_and_not_for_a_lost_one() -> None:
    bench = world()
    bench.submit(1)
    bench.work()
    bench.fabric.machines["h1"].reachable = False
    bench.database.set_status(1, DeviceStatus.UNREACHABLE)
    bench.database.request_end(1, EndReason.CANCELLED)
    for _ in range(5):
        bench.pass_time(60)
        bench.work()
    assert state(bench, 1) is AllocationState.RELEASING
    assert bench.database.owners[10], "unknown is not gone"
    bench.database.set_status(1, DeviceStatus.LOST)
    bench.pass_time(60)
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASED


def test_what_is_ended_while_it_is_placed_is_released_once_the_placing_is_over() -> None:
    bench = world()
    bench.submit(1)
    bench.scheduler.cycle()
    bench.database.request_end(1, EndReason.CANCELLED)
    bench.scheduler.cycle()
    assert len(bench.effects) == 1, "a grant must not come after the end"
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASED
    assert bench.fabric.machines["h1"].leases == {}


def test_one_customers_quota_holds_up_nobody_else() -> None:
    class Racing(MemoryStore):
        """The quota is lowered right after it was read."""

        def changes(self, *, complete: bool = False) -> Changes:
            found = super().changes(complete=complete)
            self.database.customers[1] = CustomerView(1, limits=Limits(gpus=1))
            return found

    bench = world(8)
    bench.scheduler.store = Racing(bench.database, lambda: bench.now)
    for number in range(1, 30):
        bench.submit(number)
    bench.submit(99, customer_id=2, gpus=3)
    cycle = bench.scheduler.cycle()
    assert (cycle.admitted, cycle.refused) == (2, 4)
    assert state(bench, 99) is AllocationState.PLACING
    waits = {a.wait.code for a in bench.database.allocations.values() if a.wait is not None}
    assert waits == {"quota"}
    assert sum(a.wait is not None for a in bench.database.allocations.values()) == 28
    assert cycle.reasons["placed"] == 2


def test_a_store_that_refuses_everything_is_not_asked_without_a_pause() -> None:
    class Refusing(MemoryStore):
        def admit(self, placements: Sequence[Placement]) -> Sequence[Admitted | WaitReason]:
            return [WaitReason("no_capacity", "somebody was faster", 1) for _ in placements]

    bench = world()
    bench.scheduler.store = Refusing(bench.database, lambda: bench.now)
    bench.submit(1)
    cycle = bench.scheduler.cycle()
    assert cycle.refused > 1, "it decides anew a few times"
    assert (cycle.admitted, cycle.unfinished) == (0, False)
    assert cycle.next_at == START + timedelta(seconds=1)


def test_preemption_makes_room_for_a_higher_priority() -> None:
    bench = world()
    bench.submit(1, gpus=4, preemptible=True)
    bench.work()
    bench.submit(2, priority=10)
    bench.pass_time(EngineSettings().patience_s + 1)
    cycle = bench.scheduler.cycle()
    assert (cycle.evicted, cycle.unfinished) == (1, True)
    assert bench.database.allocations[1].end_reason is EndReason.PREEMPTED
    bench.work()
    assert [state(bench, number) for number in (1, 2)] == [AllocationState.RELEASED, AllocationState.ACTIVE]


def test_reasons_are_written_at_once_and_then_not_too_often() -> None:
    bench = world()
    bench.submit(1, gpus=5)
    bench.work()
    assert bench.database.allocations[1].wait is not None
    bench.submit(2, gpus=5)
    cycle = bench.scheduler.cycle()
    assert bench.database.allocations[2].wait is None
    assert cycle.next_at == START + timedelta(milliseconds=500)
    bench.pass_time(0.5)
    bench.scheduler.cycle()
    assert bench.database.allocations[2].wait is not None


def test_a_group_that_cannot_be_dropped_does_not_keep_the_others() -> None:
    bench = world()
    for number in (1, 2):
        bench.submit(number)
    bench.work()
    for number in (1, 2):
        bench.database.request_end(number, EndReason.COMPLETED)
    bench.work()
    bench.pass_time(31)
    bench.fabric.faults.append(Fault.FAILS)
    bench.work()
    assert list(bench.fabric.groups) == ["rg-a1-1"]
    bench.pass_time(2)
    bench.work()
    assert bench.fabric.groups == {}


def test_an_idle_group_is_handed_on_to_the_same_shape_and_makes_way_for_another() -> None:
    bench = world(2)
    bench.submit(1, gpus=2)
    bench.work()
    for number, cpu_milli in ((2, 1000), (3, 2000)):
        bench.database.request_end(number - 1, EndReason.COMPLETED)
        bench.submit(number, gpus=2, cpu_milli=cpu_milli)
        bench.work()
        bench.work()
        assert state(bench, number) is AllocationState.ACTIVE
        assert list(bench.fabric.groups) == ["rg-a1-1" if number == 2 else "rg-a3-1"]


def test_an_unforeseen_error_ends_an_effect_too() -> None:
    bench = world()
    bench.submit(1)
    bench.work()
    broken = replace_end(bench)
    bench.database.request_end(1, EndReason.COMPLETED)
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASING
    broken.clear()
    bench.pass_time(2)
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASED


def replace_end(bench: World) -> list[bool]:
    """The fabric's `end` raises what it should not, until the list that is returned is empty."""
    broken, end = [True], bench.fabric.end

    def fail(host_uid: str, **named: Any) -> object:  # Any: as the port has them
        if broken:
            raise KeyError(host_uid)
        return end(host_uid, **named)

    bench.scheduler.executor.fabric = type("Broken", (), {"end": staticmethod(fail)})()
    return broken


def test_a_long_grace_is_asked_about_again_soon_and_is_no_failure() -> None:
    bench = world()
    bench.submit(1)
    bench.work()
    bench.fabric.machines["h1"].in_grace["a1"] = 10
    bench.database.request_end(1, EndReason.PREEMPTED)
    for asked in range(10):
        assert bench.fabric.machines["h1"].in_grace["a1"] == 10 - asked
        bench.work()
        assert state(bench, 1) is AllocationState.RELEASING
        assert bench.scheduler.effects.retry_at == bench.now + AGAIN_AFTER, "it waits for no longer than the first time"
        bench.pass_time(AGAIN_AFTER.total_seconds())
    bench.work()
    assert state(bench, 1) is AllocationState.RELEASED


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (7, 60), (10_000, 60)])
def test_delays_grow_to_a_minute(failures: int, seconds: int) -> None:
    assert delay_after(failures) == timedelta(seconds=seconds)


def test_failures_of_what_nobody_wants_are_forgotten() -> None:
    effects = Effects()
    assert effects.begin((1, 1), START)
    effects.finish(Result((1, 1), failed=True))
    effects.settle(effects.results(10), START)
    assert not effects.begin((1, 1), START)
    assert effects.retry_at == START + timedelta(seconds=1)
    effects.forget((1, 1))
    assert effects.begin((1, 1), START)
