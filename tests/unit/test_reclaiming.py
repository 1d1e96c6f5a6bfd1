"""Who gives way between capacity groups and inside one: reclaiming, lower priorities, and what is a group's own."""

from dataclasses import replace

import pytest

from scheduler.views import CapacityGroup, Usage
from tests.unit.checked_world import CheckedWorld
from tests.unit.engine_world import GRACE_S, SETTINGS, EngineWorld, at, world
from tests.unit.simulated_world import A100, H100, host

ONE = host(1, A100)
USED_MUCH = Usage(1, 1, at(0), gpu_milli_s=1e9)
RED, BLUE = CapacityGroup("red", "all", 2000), CapacityGroup("blue", "all", 2000)


def cohort(*groups: CapacityGroup, hosts: int = 2) -> EngineWorld:
    return world(*(host(number, A100, A100) for number in range(1, hosts + 1)), groups=groups or (RED, BLUE))


def test_what_was_borrowed_is_reclaimed_preemptible_or_not_and_no_more() -> None:
    there = cohort()
    for number, gpu_id in enumerate((10, 11, 20, 21)):
        there.run(10 + number, (gpu_id // 10, gpu_id), group="red", priority=900, since_s=10 + number)
    there.submit(1, group="blue")
    plan = there.decide()
    assert [eviction.allocation_id for eviction in plan.evictions] == [10]
    assert plan.evictions[0].reason == "It gives back what capacity group blue owns, and needs now."
    for number in (2, 3):
        there.submit(number, group="blue")
    assert there.evicts() == [11], "the rest is red's own"
    assert there.codes()[3] == "capacity_group"


def test_a_group_that_borrows_itself_reclaims_nothing() -> None:
    there = cohort(RED, CapacityGroup("blue", "all", 1000))
    for number, gpu_id in enumerate((10, 11, 20)):
        there.run(10 + number, (gpu_id // 10, gpu_id), group="red")
    there.submit(1, gpus=2, group="blue", priority=900)
    assert there.evicts() == []


def test_a_group_that_would_borrow_with_it_reclaims_nothing() -> None:
    one = CapacityGroup("gold", "all", 1000)
    there = cohort(replace(RED, nominal=1000), replace(BLUE, nominal=1000), one)
    for number, gpu_id in enumerate((10, 11)):
        there.run(10 + number, (1, gpu_id), group="red")
    there.run(12, (2, 20), group="blue")
    there.submit(1, group="blue")
    assert there.evicts() == []


def test_a_group_that_does_not_reclaim_waits() -> None:
    there = cohort(RED, replace(BLUE, reclaim_within_cohort=False))
    for number, gpu_id in enumerate((10, 11, 20, 21)):
        there.run(10 + number, (gpu_id // 10, gpu_id), group="red")
    there.submit(1, group="blue")
    assert there.evicts() == []


@pytest.mark.parametrize(("allowed", "evicts"), [(True, [10]), (False, [])])
def test_inside_a_group_the_lower_priority_gives_way_if_the_group_says_so(allowed: bool, evicts: list[int]) -> None:
    there = cohort(CapacityGroup("red", None, 2000, preempt_lower_priority=allowed), hosts=1)
    there.run(10, (1, 10), group="red", priority=1)
    there.run(11, (1, 11), group="red", priority=2)
    there.submit(1, group="red", priority=2)
    assert there.evicts() == evicts


def test_what_a_group_uses_of_its_own_does_not_give_way_to_other_groups() -> None:
    """Or the two would evict each other in turn: by rank, and by reclaiming."""
    there = cohort(replace(RED, nominal=1000), replace(BLUE, nominal=0), hosts=0)
    there.set_host(ONE)
    there.run(10, (1, 10), group="red", preemptible=True)
    there.submit(1, group="blue", priority=900)
    assert there.evicts() == []
    there.submit(2, priority=900)
    assert there.evicts() == []


def test_what_a_group_has_borrowed_gives_way_by_rank() -> None:
    there = cohort(replace(RED, nominal=0), replace(BLUE, nominal=0), CapacityGroup("gold", "all", 1000), hosts=0)
    there.set_host(ONE)
    there.run(10, (1, 10), group="red", preemptible=True)
    there.submit(1, group="blue", priority=900)
    assert there.evicts() == [10]


def test_preemptible_work_beyond_the_open_group_gives_way_to_what_a_group_owns() -> None:
    there = cohort(CapacityGroup("red", None, 3000))
    for number, gpu_id in enumerate((10, 11, 20, 21)):
        there.run(10 + number, (gpu_id // 10, gpu_id), preemptible=number > 0, priority=900, since_s=10 + number)
    there.submit(1, group="red")
    assert there.evicts() == [11]
    for number in range(2, 5):
        there.submit(number, group="red")
    assert there.evicts() == [12, 13]
    assert there.codes()[4] == "capacity_group"


def test_preemptible_work_of_the_open_group_takes_nothing_of_it_from_other_work() -> None:
    there = cohort(CapacityGroup("red", None, 2000))
    there.run(10, (1, 10), preemptible=True, since_s=100)
    there.run(11, (1, 11), preemptible=True)
    for number in (1, 2, 3):
        there.submit(number, priority=5)
    assert there.starts() == [1, 2]
    assert there.codes() == {3: "capacity_group"}
    there.submit(4, group="red", gpus=2)
    plan = there.decide()
    assert [eviction.allocation_id for eviction in plan.evictions] == [11, 10], "red's own is reclaimed from it alone"


def test_preemptible_work_that_comes_first_whenever_it_comes_again_is_not_evicted_without_an_end() -> None:
    """It has a share of the open group that is as large as that is, and there is room for both."""
    there = CheckedWorld({1: host(1, A100, A100)}, groups=[CapacityGroup("red", None, 1000)], usage=[USED_MUCH])
    there.ask(customer_id=2, preemptible=True)
    there.cycle()
    number = there.ask(customer_id=USED_MUCH.customer_id).allocation_id
    evicted = 0
    for _ in range(3):
        evicted += there.cycle()
        there.pass_time(GRACE_S)
    assert number in there.held
    assert evicted == 0


def test_nothing_is_reclaimed_where_it_could_not_be_told_to_leave() -> None:
    """One of red's two costs less, but has a part on a host that cannot be reached."""
    there = cohort(replace(RED, nominal=0), replace(BLUE, nominal=4000), hosts=3)
    there.run(10, (2, 20), (3, 30), group="red")
    there.run(11, (2, 21), group="red", since_s=100)
    lost = there.hosts[3]
    there.set_host(replace(lost, why_not="it is unreachable", reachable=False))
    there.submit(1, gpus=2, group="blue")
    assert there.evicts() == [11]
    there.submit(2, gpus=2, group="blue")
    there.pass_time(1000)
    assert there.evicts() == [], "nothing but the other is left"
    there.set_host(lost)
    there.pass_time(SETTINGS.refresh_s)
    assert there.evicts() == [10]


def test_quota_that_was_given_back_for_it_is_its_own_whoever_comes() -> None:
    there = cohort(CapacityGroup("red", None, 2000))
    there.run(10, (1, 10), group="red", priority=1)
    there.run(11, (1, 11), group="red", priority=9)
    there.submit(1, group="red", priority=2)
    assert there.evicts() == [10]
    there.submit(2, group="red", gpus=2, priority=5, queued_at=at(-1e6), customer_id=2)
    there.pass_time(GRACE_S)
    assert there.starts() == [1]


def test_no_more_is_reclaimed_from_a_host_than_was_borrowed() -> None:
    """Blue needs a whole host, and red has borrowed one device only: the rest of either host is red's own."""
    there = cohort(replace(RED, nominal=2000), replace(BLUE, nominal=2000))
    for number, gpu_id in enumerate((10, 20, 21)):
        there.run(10 + number, (gpu_id // 10, gpu_id), group="red", since_s=10 + number)
    there.submit(1, gpus=2, group="blue")
    assert there.evicts() == [10]


def test_what_is_partly_a_groups_own_is_spared_where_something_else_would_do() -> None:
    """Red has borrowed one device: what has two each has run for less, but one of them is red's own."""
    there = cohort(replace(RED, nominal=16_000), replace(BLUE, nominal=4000), hosts=10)
    for number in range(1, 9):
        there.run(10 + number, (number, 10 * number), (number, 10 * number + 1), group="red", since_s=10)
    there.run(19, (9, 90), group="red", since_s=1000)
    there.run(20, (9, 91), group="blue")
    there.run(21, (10, 100), (10, 101), group="blue")
    there.submit(1, group="blue")
    assert there.evicts() == [19]


def test_a_host_is_cleared_of_what_is_borrowed_alone_if_that_would_do() -> None:
    """Nobody uses what gold owns, on another host, but blue needs room on the first."""
    there = cohort(RED, replace(BLUE, nominal=1000), CapacityGroup("gold", "all", 1000), hosts=0)
    there.set_host(host(1, A100, A100, A100))
    there.set_host(host(2, H100))
    there.run(10, (1, 10), (1, 11), group="red", since_s=10)
    there.run(11, (1, 12), group="red", since_s=1000)
    there.submit(1, group="blue", models=("A100",))
    assert there.evicts() == [11]


def test_what_is_partly_a_groups_own_is_reclaimed_if_nothing_else_would_do() -> None:
    there = cohort()
    there.run(10, (1, 10), (1, 11), group="red")
    there.run(11, (2, 20), group="red", min_runtime_s=100)
    there.run(12, (2, 21), group="blue")
    there.submit(1, group="blue")
    assert there.evicts() == [10]


def test_a_host_is_not_cleared_of_what_its_group_owns() -> None:
    """Blue may have two devices, and red has one too many; but no host can be cleared with that one."""
    there = cohort()
    for number, gpu_id in enumerate((10, 11, 20)):
        there.run(10 + number, (gpu_id // 10, gpu_id), group="red", since_s=12 - number)
    there.run(13, (2, 21), priority=900)
    there.submit(1, gpus=2, group="blue")
    assert there.evicts() == []


def test_the_quota_that_is_given_back_already_is_waited_for() -> None:
    there = cohort(CapacityGroup("red", None, 2000))
    there.run(10, (1, 10), group="red", priority=1)
    there.run(11, (1, 11), group="red", priority=1)
    there.leave(10)
    there.submit(1, group="red", priority=2)
    assert there.evicts() == []
    assert there.reasons[1].detail == "What ends now makes room for it."
    there.pass_time(GRACE_S)
    assert there.starts() == [1]


def test_what_is_partly_a_groups_own_does_not_give_way_by_rank() -> None:
    """Else it would reclaim its own as soon as the rest has left, and give way again when that comes again."""
    there = cohort(replace(RED, nominal=1000), BLUE)
    there.run(10, (1, 10), (2, 20), group="blue", preemptible=True)
    there.run(11, (1, 11), group="blue", preemptible=True, milli=300, since_s=100)
    there.submit(1, gpus=2, group="red", priority=5)
    assert there.evicts() == []
