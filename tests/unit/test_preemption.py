"""Who gives way to whom, and that it is as little as possible, once, and for somebody."""

from dataclasses import replace

import pytest

from scheduler.demand import Operator, Selector
from tests.unit.engine_world import GRACE_S, SETTINGS, at, world
from tests.unit.simulated_world import A100, GIB, H100, host

ONE, TWO, FOUR = host(1, A100), host(1, A100, A100), host(1, *[A100] * 4)


def test_what_is_preemptible_gives_way_to_a_higher_priority() -> None:
    there = world(ONE)
    there.run(10, (1, 10), preemptible=True)
    there.submit(1, priority=5)
    plan = there.decide()
    (eviction,) = plan.evictions
    assert (eviction.allocation_id, eviction.generation, eviction.in_favour_of) == (10, 1, 1)
    assert eviction.reason == "It gives way to a request of priority 5."
    assert there.reasons[1].code == "preempting"
    assert there.reasons[1].detail == "1 allocation gives way to it now."
    assert (there.reasons[1].eta, there.reasons[1].eta_basis) == (at(GRACE_S), "limits")
    there.pass_time(GRACE_S)
    assert there.starts() == [1]


@pytest.mark.parametrize(
    ("request_of", "victim_of", "evicts"),
    [
        ({"priority": 5}, {"priority": 4}, False),
        ({"priority": 5}, {"priority": 5, "preemptible": True}, True),
        ({"priority": 5, "preemptible": True}, {"priority": 5, "preemptible": True}, False),
        ({"priority": 5, "preemptible": True}, {"priority": 4, "preemptible": True}, True),
        ({"priority": 4}, {"priority": 5, "preemptible": True}, False),
    ],
)
def test_only_what_is_preemptible_and_of_lower_rank_gives_way(
    request_of: dict[str, int], victim_of: dict[str, int], evicts: bool
) -> None:
    there = world(ONE)
    there.run(10, (1, 10), **victim_of)
    there.submit(1, **request_of)
    assert there.evicts() == ([10] if evicts else [])


def test_waiting_raises_the_place_in_the_order_but_not_the_rank() -> None:
    there = world(ONE, settings=replace(SETTINGS, ageing_step_s=1))
    there.run(10, (1, 10), preemptible=True)
    there.submit(1, preemptible=True)
    there.pass_time(1000)
    assert there.evicts() == []


def test_nothing_is_evicted_before_its_minimum_runtime() -> None:
    there = world(ONE)
    there.run(10, (1, 10), preemptible=True, min_runtime_s=100, since_s=50)
    there.submit(1, priority=5)
    assert there.evicts() == []
    assert there.codes() == {1: "no_capacity"}
    there.pass_time(50)
    assert there.evicts() == [10]


def test_a_gang_is_not_evicted_while_one_of_its_hosts_cannot_be_reached() -> None:
    """It would not leave the other one either."""
    there = world(ONE, host(2, A100))
    there.run(10, (1, 10), (2, 20), preemptible=True)
    there.set_host(replace(there.hosts[2], why_not="it is unreachable", reachable=False))
    there.submit(1, priority=5)
    assert there.evicts() == []
    there.set_host(replace(there.hosts[2], why_not="its operator has set it to draining", reachable=True))
    there.pass_time(SETTINGS.refresh_s)
    assert there.evicts() == [10]


def test_what_has_run_the_least_since_its_checkpoint_is_lost_first() -> None:
    there = world(host(1, A100, A100, A100))
    there.run(10, (1, 10), preemptible=True, since_s=500)
    there.run(11, (1, 11), preemptible=True, since_s=900, checkpoint_at=at(-10))
    there.run(12, (1, 12), preemptible=True, since_s=20)
    there.submit(1, priority=5)
    assert there.evicts() == [11]


def test_gpu_seconds_are_lost_by_size() -> None:
    """Two devices for 60 s are more than one for 100 s, where one is needed."""
    there = world(TWO, host(2, A100))
    there.run(10, (1, 10), (1, 11), preemptible=True, since_s=60)
    there.run(11, (2, 20), preemptible=True, since_s=100)
    there.submit(1, priority=5)
    assert there.evicts() == [11]


def test_who_is_not_needed_in_the_end_may_stay() -> None:
    """The cheapest are the two small ones first; with the large one they are not needed."""
    there = world(host(1, *[A100] * 6))
    there.run(10, (1, 10), preemptible=True, since_s=1)
    there.run(11, (1, 11), preemptible=True, since_s=1)
    there.run(12, *((1, gpu_id) for gpu_id in range(12, 16)), preemptible=True, since_s=10)
    there.submit(1, gpus=4, priority=5)
    assert there.evicts() == [12]


def test_nobody_is_evicted_if_that_would_not_do() -> None:
    there = world(TWO)
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (1, 11))
    there.submit(1, gpus=2, priority=5)
    assert there.evicts() == []


def test_what_leaves_already_is_waited_for() -> None:
    there = world(TWO)
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (1, 11))
    there.leave(11)
    there.submit(1, priority=5)
    assert there.evicts() == []
    assert (there.reasons[1].eta, there.reasons[1].eta_basis) == (at(GRACE_S), "limits")
    there.pass_time(GRACE_S)
    assert there.starts() == [1]


def test_what_ends_by_itself_in_a_moment_is_waited_for() -> None:
    there = world(TWO)
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (1, 11), limit_s=60, since_s=61)
    there.submit(1, priority=5)
    assert there.evicts() == []
    there.pass_time(GRACE_S)
    assert there.evicts() == [10], "it is late"


def test_what_does_not_leave_is_not_waited_for_for_ever() -> None:
    there = world(TWO)
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (1, 11))
    there.leave(11, grace_s=1e6)
    there.submit(1, priority=5)
    assert there.evicts() == []
    there.pass_time(GRACE_S + SETTINGS.overdue_s + 1)
    assert there.evicts() == [10]


def test_each_is_evicted_once_and_for_one_request() -> None:
    there = world(TWO)
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (1, 11), preemptible=True)
    there.submit(1, priority=5)
    there.submit(2, priority=5)
    plan = there.decide()
    assert sorted((e.allocation_id, e.in_favour_of) for e in plan.evictions) == [(10, 1), (11, 2)]
    there.pass_time(1)
    assert there.evicts() == []


def test_what_is_cleared_for_one_is_not_taken_by_another() -> None:
    """Not even by one that comes before it by now."""
    there = world(ONE, settings=replace(SETTINGS, ageing_step_s=6))
    there.run(10, (1, 10), preemptible=True)
    there.submit(2, queued_at=at(-4), preemptible=True, customer_id=3)
    there.submit(1, priority=5)
    assert there.evicts() == [10]
    there.pass_time(GRACE_S)  # by now the other has aged more
    assert there.starts() == [1]


def test_who_was_evicted_does_not_come_back_in_between() -> None:
    there = world(ONE)
    there.run(10, (1, 10), preemptible=True, priority=4)
    there.submit(1, priority=5)
    there.decide()
    there.submit(11, priority=4, preemptible=True, customer_id=7, queued_at=at(-1000))
    there.pass_time(GRACE_S)
    assert there.starts() == [1]
    assert there.evicts() == []


def test_if_something_else_becomes_free_meanwhile_it_starts_there() -> None:
    there = world(ONE, host(2, A100))
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (2, 20))
    there.submit(1, priority=5)
    assert there.evicts() == [10]
    there.gone(11)
    there.submit(2, priority=0, customer_id=2)
    assert there.starts() == [1]
    there.pass_time(GRACE_S)
    assert there.starts() == [2], "what was cleared is for all again"


def test_if_its_place_is_lost_others_are_looked_for() -> None:
    there = world(ONE, host(2, A100))
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (2, 20), preemptible=True, since_s=1)
    there.submit(1, priority=5)
    assert there.evicts() == [10]
    there.set_host(replace(ONE, why_not="it is unreachable"))
    assert there.evicts() == [11]


def test_if_its_place_becomes_too_small_it_does_not_wait_for_what_leaves_elsewhere() -> None:
    there = world(TWO, host(2, A100, A100), host(3, H100))
    there.run(10, (1, 10), preemptible=True)
    there.run(11, (1, 11))
    there.run(12, (2, 20), (2, 21), preemptible=True, since_s=1)
    there.run(13, (3, 30))
    there.leave(11, grace_s=0)
    there.submit(1, gpus=2, priority=5, models=("A100",))
    assert there.evicts() == [10]
    there.pass_time(GRACE_S)
    there.leave(13, grace_s=1e6)
    there.set_host(ONE)
    assert there.evicts() == [12]


def test_a_request_waits_a_moment_before_others_give_way() -> None:
    there = world(ONE, settings=replace(SETTINGS, patience_s=5))
    there.run(10, (1, 10), preemptible=True)
    there.submit(1, priority=5)
    assert there.evicts() == []
    assert there.reasons[1].code == "preempting"
    there.pass_time(6)
    assert there.evicts() == [10]


def test_while_it_waits_so_nobody_behind_it_takes_its_place() -> None:
    there = world(FOUR, host(2, H100), settings=replace(SETTINGS, patience_s=5))
    there.run(10, (1, 10), (1, 11), limit_s=100)
    there.run(11, (2, 20), preemptible=True)
    there.submit(1, gpus=4, priority=5)
    there.submit(2, gpus=2)
    assert there.starts() == []
    assert there.codes()[1] == "preempting"


def test_a_gang_gets_all_of_its_hosts_where_the_least_is_lost() -> None:
    there = world(*(host(number, A100, A100) for number in (1, 2, 3)), host(4, H100, H100))
    for number, since_s in ((1, 10), (2, 1000), (3, 20), (4, 1)):
        there.run(10 + number, (number, 10 * number), preemptible=True, since_s=since_s)
    there.submit(1, gpus=2, nodes=2, priority=5)
    assert there.evicts() == [11, 13], "of one model"
    there.pass_time(GRACE_S)
    plan = there.decide()
    assert [part.host_id for part in plan.placements[0].parts] == [1, 3]


def test_a_gang_inside_a_rack_clears_a_rack() -> None:
    racks = {1: "r1", 2: "r2", 3: "r2"}
    there = world(*(replace(host(number, A100), labels={"rack": rack}) for number, rack in racks.items()))
    for number, since_s in ((1, 1), (2, 100), (3, 100)):
        there.run(10 + number, (number, 10 * number), preemptible=True, since_s=since_s)
    there.submit(1, nodes=2, priority=5, within="rack")
    assert there.evicts() == [12, 13]


def test_shares_of_others_leave_a_device_together() -> None:
    there = world(ONE)
    for number in (10, 11):
        there.run(number, (1, 10), milli=400, customer_id=7, preemptible=True)
    there.submit(1, milli=500, priority=5, customer_id=8)
    assert there.evicts() == [10, 11], "a device is shared inside one customer only"


def test_cpu_alone_can_be_what_has_to_be_given() -> None:
    there = world(TWO)
    there.run(10, (1, 10), preemptible=True, cpu_milli=60_000)
    there.submit(1, priority=5, cpu_milli=30_000)
    assert there.evicts() == [10]


def test_nobody_is_evicted_for_who_must_stay_apart_from_others_there() -> None:
    there = world(ONE, host(2, A100, A100))
    there.run(10, (1, 10), preemptible=True, since_s=1000)
    there.run(11, (2, 20), customer_id=1, apart="replica", since_s=1)
    there.run(12, (2, 21), preemptible=True, since_s=1)
    there.submit(1, priority=5, apart="replica")
    assert there.evicts() == [10]
    there.pass_time(GRACE_S)
    assert there.starts() == [1]


def test_others_of_its_set_that_wait_for_a_place_there_count_too() -> None:
    there = world(TWO, host(2, A100))
    for number, gpu_id, since_s in ((10, 10, 1), (11, 11, 2), (12, 20, 3)):
        there.run(number, (gpu_id // 10, gpu_id), preemptible=True, since_s=since_s)
    for number in (1, 2):
        there.submit(number, priority=5, apart="replica")
    assert there.evicts() == [10, 12]


def test_what_a_reservation_holds_is_not_evicted() -> None:
    there = world(ONE)
    there.run(10, (1, 10), preemptible=True, reservation_id=5)
    there.submit(1, priority=5)
    assert there.evicts() == []


def test_of_many_hosts_the_cheapest_is_found() -> None:
    there = world(*(host(number, A100) for number in range(1, 100)))
    for number in range(1, 100):
        there.run(100 + number, (number, 10 * number), preemptible=True, since_s=1000 - number)
    there.submit(1, priority=5)
    assert there.evicts() == [199]


def test_where_the_cheapest_may_not_go_yet_it_looks_further() -> None:
    there = world(*(host(number, A100) for number in range(1, 80)))
    for number in range(1, 80):
        young = number < 79
        since_s, min_runtime_s = (10, 100) if young else (5000, 100)
        there.run(100 + number, (number, 10 * number), preemptible=True, since_s=since_s, min_runtime_s=min_runtime_s)
    there.submit(1, priority=5)
    assert there.evicts() == [179]


def test_memory_of_a_gpu_and_labels_are_met_by_what_is_cleared() -> None:
    there = world(ONE, replace(host(2, A100), labels={"zone": "b"}))
    there.run(10, (1, 10), preemptible=True, since_s=1)
    there.run(11, (2, 20), preemptible=True, since_s=100)
    there.submit(1, priority=5, gpu_memory_bytes=80 * GIB, selectors=(Selector("zone", Operator.IN, ("b",)),))
    assert there.evicts() == [11]


def test_what_is_kept_for_others_for_later_does_not_keep_it_from_what_was_cleared() -> None:
    """The other one waits for CPU of the whole host, which is in its way already now."""
    there = world(TWO, settings=replace(SETTINGS, ageing_step_s=6))
    there.run(10, (1, 10), preemptible=True, priority=1)
    there.run(11, (1, 11), cpu_milli=40_000, priority=9)
    there.submit(1, priority=5)
    assert there.evicts() == [10]
    there.submit(2, cpu_milli=60_000, queued_at=at(-4), customer_id=2)
    there.pass_time(GRACE_S)
    assert there.starts() == [1]
