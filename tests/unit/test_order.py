"""Who comes first: priority and ageing, fair shares, arrival; and what capacity groups change about that."""

from scheduler.engine.settings import EngineSettings
from scheduler.views import CapacityGroup, CustomerView, Usage
from tests.unit.engine_world import GRACE_S, at, world
from tests.unit.simulated_world import A100, host

ONE, FOUR = host(1, A100), host(1, *[A100] * 4)
AGEING = EngineSettings(grace_s=GRACE_S, patience_s=0, ageing_step_s=60, ageing_points=100)


def test_the_higher_priority_comes_first_then_who_came_first() -> None:
    there = world(FOUR)
    for number, priority in ((1, 0), (2, 100), (3, 0), (4, 100)):
        there.submit(number, priority=priority)
    assert there.starts() == [2, 4, 1, 3]


def test_each_step_of_waiting_raises_the_priority() -> None:
    there = world(ONE, settings=AGEING)
    there.run(9, (1, 10))
    there.submit(1, priority=0)
    there.pass_time(121)
    there.submit(2, priority=199)
    there.submit(3, priority=201)
    there.decide()
    assert {number: reason.position for number, reason in there.reasons.items()} == {3: 1, 1: 2, 2: 3}


def test_the_customer_who_has_less_comes_first_and_each_start_counts() -> None:
    """Two devices are left: customer 1, who came first, gets one, and then customer 2 has less."""
    there = world(host(1, A100, A100))
    for number in (1, 2, 3):
        there.submit(number, customer_id=1)
    there.submit(4, customer_id=2)
    assert there.starts() == [1, 4]


def test_past_use_counts() -> None:
    there = world(ONE, usage=[Usage(1, 0, at(0), gpu_milli_s=1e9)])
    there.submit(1, customer_id=1)
    there.submit(2, customer_id=2)
    assert there.starts() == [2]


def test_of_customers_with_equal_use_the_one_with_more_weight_comes_first() -> None:
    there = world(ONE, usage=[Usage(number, 0, at(0), gpu_milli_s=1e9) for number in (1, 2)])
    there.set_customer(CustomerView(2, weight=3.0))
    there.submit(1, customer_id=1)
    there.submit(2, customer_id=2)
    assert there.starts() == [2]


def test_inside_a_customer_the_workspace_that_has_less_comes_first() -> None:
    there = world(ONE, usage=[Usage(1, 0, at(0), gpu_milli_s=1e9)])
    there.submit(1)
    there.submit(2, workspace_id=5)
    assert there.starts() == [2]


def test_priority_comes_before_shares() -> None:
    there = world(ONE, usage=[Usage(1, 0, at(0), gpu_milli_s=1e9)])
    there.submit(1, customer_id=1, priority=1)
    there.submit(2, customer_id=2)
    assert there.starts() == [1]


def test_a_large_request_is_not_put_behind_small_ones_because_it_does_not_fit() -> None:
    """Without groups nobody borrows: what it waits for is kept from those behind it."""
    there = world(FOUR)
    there.run(9, (1, 10))
    there.submit(1, gpus=4, priority=100)
    there.submit(2, gpus=1)
    assert there.starts() == []
    assert there.codes() == {1: "no_capacity", 2: "behind_others"}


def test_who_stays_within_the_own_quota_comes_before_who_borrows_whatever_the_priority() -> None:
    there = world(ONE, groups=[CapacityGroup("red", "all", 1000), CapacityGroup("blue", "all", 0)])
    there.submit(1, group="blue", priority=900)
    there.submit(2, group="red")
    assert there.starts() == [2]


def test_inside_a_group_priority_decides_even_if_only_the_lower_one_stays_within_the_quota() -> None:
    there = world(FOUR, groups=[CapacityGroup("red", "all", 1000), CapacityGroup("blue", "all", 3000)])
    there.run(9, (1, 10), (1, 11), gpus=2, group="blue")
    there.submit(1, group="red", gpus=2, priority=900)
    there.submit(2, group="red", gpus=1)
    assert there.starts() == [1]
