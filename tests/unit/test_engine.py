"""The engine's memory: changes, what was refused, limits, bounded work, and that no order makes a difference."""

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from scheduler.engine.engine import Engine
from scheduler.packing.scoring import Spread
from scheduler.packing.shape import Shape
from scheduler.plan import Plan
from scheduler.ports import Changes, WaitReason
from scheduler.states import AllocationState
from scheduler.views import CapacityGroup, CustomerView, Held, IdleGroup, Usage
from tests.unit.engine_world import SETTINGS, a_request, at, world
from tests.unit.simulated_world import A100, GIB, H100, host
from tests.unit.test_reservations import reservation

FOUR = host(1, *[A100] * 4)


# What changes do


def test_what_was_placed_counts_until_the_store_says_otherwise() -> None:
    engine = Engine(SETTINGS)
    engine.update(Changes(complete=True, hosts=[FOUR], queued=[a_request(1, queued_at=at(0), gpus=4)]), at(0))
    assert len(engine.decide(at(0)).placements) == 1
    engine.update(Changes(queued=[a_request(2, queued_at=at(1))]), at(1))
    assert engine.decide(at(1)).placements == []


def test_what_was_evicted_leaves_until_the_store_says_otherwise() -> None:
    there = world(host(1, A100))
    victim = there.run(10, (1, 10), preemptible=True)
    there.submit(1, priority=5)
    assert there.evicts() == [10]
    there.engine.update(Changes(hosts=[host(1, A100)]), there.now)  # so that everything is looked at again
    assert there.engine.decide(there.now).evictions == []
    there.engine.update(Changes(held=[victim]), there.now)  # the store did not do it
    there.now += timedelta(seconds=SETTINGS.refresh_s)
    assert [eviction.allocation_id for eviction in there.engine.decide(there.now).evictions] == [10]


def test_the_same_changes_again_make_no_difference() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), (1, 11))
    there.submit(1, gpus=2)
    there.submit(2, gpus=2, customer_id=2)
    assert there.starts() == [1]
    again = Changes(
        hosts=[FOUR], held=list(there.held.values()), queued=list(there.queued.values()), gone=[77], groups=[]
    )
    for _ in range(2):
        there.engine.update(again, there.now)
        plan = there.engine.decide(there.now)
        assert (plan.placements, plan.evictions, plan.waits, plan.unfinished) == ([], [], {}, False)
    there.gone(1)
    assert there.starts() == [2]


def test_a_failed_placement_is_tried_again_when_it_is_time_at_its_old_place() -> None:
    there = world(host(1, A100))
    made = there.submit(1)
    there.submit(2)
    assert there.starts() == [1]
    del there.held[1]
    there.queued[1] = replace(made, not_before=at(5))
    there.tell_all()
    assert there.starts() == [2]
    assert there.reasons[1].code == "host_not_available"
    assert there.reasons[1].detail == "Its host failed to take it; it is tried again at 00:00:05 UTC."
    there.pass_time(5)
    there.gone(2)
    assert there.starts() == [1]


def test_what_became_of_a_placement_is_told_with_the_same_request() -> None:
    there = world(FOUR)
    made = there.submit(1, gpus=3)
    there.decide()
    there.engine.update(Changes(queued=[made]), there.now)  # it failed, and may be tried at once
    assert [placement.allocation_id for placement in there.engine.decide(there.now).placements] == [1]


def test_complete_changes_make_it_forget_everything() -> None:
    """Also what its scoring has learned, and who waited."""
    histories = [world(FOUR), world(host(7, H100), usage=[Usage(1, 0, at(0), 1e9)])]
    other = histories[1]
    for number in range(20, 60):
        other.submit(number, gpus=1 + number % 3, group="red")
    other.set_groups(CapacityGroup("red", None, 1000))
    other.reserve(reservation(0, 1000, 70))
    other.decide()
    for there in histories:
        there.hosts = {number: host(number, *[A100] * 4) for number in (1, 2, 3)}
        there.queued, there.held, there.groups, there.reservations, there.usage = {}, {}, (), (), ()
        there.run(10, (1, 10))
        for number in range(1, 9):
            there.submit(number, gpus=1 + number % 3, customer_id=number % 2)
        there.tell_all()
    assert histories[0].decide() == histories[1].decide()


@dataclass(frozen=True)
class Learning(Spread):
    """Notes the shapes that it is told of."""

    seen: list[int] = field(default_factory=list)

    def observe(self, shape: Shape) -> None:
        self.seen.append(shape.gpus)


def test_scoring_learns_from_each_request_once_in_the_order_of_arrival_and_anew_after_complete_changes() -> None:
    made: list[Learning] = []

    def scoring() -> Learning:
        made.append(Learning())
        return made[-1]

    engine = Engine(SETTINGS, scoring)
    queued = [a_request(number, queued_at=at(number), gpus=number) for number in (3, 1, 2)]
    running = Held(a_request(4, queued_at=at(0), gpus=4), AllocationState.ACTIVE, 1, (), at(0))
    for changes in (Changes(complete=True, held=[running], queued=queued), Changes(held=[running], queued=queued)):
        engine.update(changes, at(9))
        assert made[-1].seen == [4, 1, 2, 3]
    engine.update(Changes(complete=True, queued=queued[:1]), at(9))
    assert made[-1].seen == [3]


def test_a_host_that_is_lost_takes_nothing_and_one_that_returns_does() -> None:
    there = world(FOUR)
    there.decide()
    there.set_host(replace(FOUR, why_not="it is unreachable"))
    there.submit(1)
    assert there.starts() == []
    assert there.codes() == {1: "host_not_available"}
    there.set_host(FOUR)
    assert there.starts() == [1]
    there.drop_host(1)
    there.submit(2)
    assert there.starts() == []
    there.set_host(FOUR)
    plan = there.decide()
    assert plan.placements[0].parts[0].devices != there.held[1].parts[0].devices, "what is held counts again"


def test_a_request_that_changes_is_decided_anew() -> None:
    there = world(host(1, A100))
    there.run(10, (1, 10), preemptible=True)
    made = there.submit(1)
    there.submit(2, priority=-1)
    assert there.evicts() == [10]
    there.queued[1] = replace(made, priority=-2, preemptible=True)
    there.engine.update(Changes(queued=[there.queued[1]]), there.now)
    there.pass_time(10)
    assert there.starts() == [2]


def test_an_idle_group_of_its_shape_is_where_a_request_starts() -> None:
    there = world(FOUR, host(2, *[A100] * 4))
    idle = IdleGroup("g", 2, frozenset({22, 23}), 1000, GIB)
    there.engine.update(Changes(idle_groups=[idle]), there.now)
    there.tell_all()
    there._changes = replace(there._changes, complete=True, idle_groups=[idle])
    there.submit(1, gpus=2)
    assert there.decide().placements[0].parts[0].devices == ((22, 1000), (23, 1000))


def test_a_volume_binds_to_its_host_and_an_image_attracts() -> None:
    there = world(FOUR, replace(host(2, *[A100] * 4), images=frozenset({"torch"})))
    there.submit(1, image="torch")
    assert there.decide().placements[0].parts[0].host_id == 2
    there.submit(2, bound_host_id=1, image="torch")
    assert there.decide().placements[0].parts[0].host_id == 1


def test_requests_of_one_set_stay_apart() -> None:
    there = world(FOUR, host(2, *[A100] * 4))
    for number in (1, 2, 3):
        there.submit(number, apart="replica")
    assert there.starts() == [1, 2]
    assert {part.host_id for number in (1, 2) for part in there.held[number].parts} == {1, 2}
    there.submit(4, apart="replica", customer_id=2)
    assert there.starts() == [4], "another customer's set is another one"


def test_a_device_is_shared_inside_one_customer_only() -> None:
    there = world(host(1, A100))
    there.submit(1, milli=400, customer_id=1)
    there.submit(2, milli=600, customer_id=1)
    there.submit(3, milli=300, customer_id=2)
    assert there.starts() == [1]
    there.cancel(3)
    assert there.starts() == [2]


def test_a_gang_starts_as_a_whole_or_not_at_all() -> None:
    there = world(FOUR, host(2, *[A100] * 3))
    there.submit(1, nodes=2, gpus=4)
    assert there.starts() == []
    there.set_host(host(2, *[A100] * 4))
    plan = there.decide()
    assert sorted(part.host_id for part in plan.placements[0].parts) == [1, 2]
    assert all(len(part.devices) == 4 for part in plan.placements[0].parts)


# What the store refuses


def test_what_was_refused_is_undone_and_decided_anew() -> None:
    there = world(FOUR)
    there.submit(1, gpus=4)
    plan = there.engine.decide(there.now)
    assert plan.placements == []  # nothing was told yet
    there.decide()
    there.engine.refused({1: WaitReason("no_capacity", "somebody was faster", 1)})
    assert [placement.allocation_id for placement in there.engine.decide(there.now).placements] == [1]


def test_a_limit_that_stands_against_it_does_so_until_something_about_the_customer_changes() -> None:
    there = world(FOUR, host(2, *[A100] * 4))
    there.submit(1, gpus=2)
    there.run(20, (2, 20), customer_id=2)
    there.decide()
    there.refuse("quota", 1)
    assert there.starts() == []
    assert (there.reasons[1].code, there.reasons[1].detail) == ("quota", "It was refused for quota.")
    there.gone(20)
    assert there.starts() == [], "what becomes free elsewhere is no reason to try again"
    there.set_customer(CustomerView(1, weight=2.0))
    assert there.starts() == [1]


def test_a_limit_stands_against_what_needs_no_less() -> None:
    there = world(FOUR, host(2, *[A100] * 4))
    there.submit(1, gpus=2)
    there.decide()
    there.refuse("quota", 1)
    there.submit(2, gpus=2, cpu_milli=2000)
    there.submit(3, gpus=1)
    there.submit(4, gpus=2, customer_id=2)
    assert there.starts() == [3, 4]
    assert there.codes() == {1: "quota", 2: "quota"}


def test_two_that_are_refused_together_both_wait() -> None:
    there = world(FOUR)
    there.submit(1, gpus=2)
    there.submit(2, gpus=1)
    there.decide()
    there.refuse("balance", 1, 2)
    assert there.starts() == []
    assert there.codes() == {1: "balance", 2: "balance"}


def test_two_that_are_refused_in_turn_are_not_tried_for_ever() -> None:
    there = world(FOUR)
    there.submit(1, gpus=3, cpu_milli=1000)
    there.submit(2, gpus=2, cpu_milli=3000)  # needs neither more nor less
    plan = there.decide()
    tried = []
    while plan.placements and len(tried) < 5:
        tried += [placement.allocation_id for placement in plan.placements]
        there.engine.refused({number: WaitReason("quota", "too much", 1) for number in tried[-1:]})
        plan = there.engine.decide(there.now)
    assert tried == [1, 2]


def test_what_is_not_placed_can_not_be_refused() -> None:
    there = world(FOUR)
    there.engine.refused({99: WaitReason("quota", "", 1)})
    there.submit(1)
    assert there.starts() == [1]


def test_a_cycle_has_a_bound_and_the_next_begins_with_what_it_did_not_reach() -> None:
    there = world(*(host(number, A100) for number in range(1, 10)), settings=replace(SETTINGS, searches=2))
    for number in range(1, 6):
        there.submit(number, cpu_milli=number)
    first = there.decide()
    assert (len(first.placements), first.unfinished) == (2, True)
    assert {reason.code for reason in there.reasons.values()} == {"not_reached"}
    there.submit(6, cpu_milli=6, priority=9, customer_id=2)
    assert there.starts() == [3, 4], "before the new one, which is higher"
    last = there.decide()
    assert (sorted(p.allocation_id for p in last.placements), last.unfinished) == ([5, 6], False)


def test_what_was_not_reached_does_not_take_what_is_kept_for_others() -> None:
    there = world(FOUR, settings=replace(SETTINGS, searches=1, kept_places=2))
    there.run(10, (1, 10), (1, 11), limit_s=100)
    there.submit(1, gpus=4)
    there.submit(2, gpus=2, customer_id=2)
    assert there.decide().unfinished
    assert there.starts() == []
    assert there.reasons[2].code == "behind_others"


def test_equivalent_requests_are_looked_at_once() -> None:
    there = world(FOUR, settings=replace(SETTINGS, searches=2))
    there.run(1000, *((1, gpu_id) for gpu_id in range(10, 14)))
    for number in range(1, 100):
        there.submit(number)
    assert not there.decide().unfinished
    assert len(there.reasons) == 99


def test_a_verdict_stands_until_something_has_changed() -> None:
    there = world(FOUR, settings=replace(SETTINGS, searches=0))
    there.submit(1)
    assert there.decide().unfinished
    there = world(FOUR)
    there.submit(1, gpus=5)
    there.decide()
    there.engine._state.settings = replace(SETTINGS, searches=0)
    assert not there.decide().unfinished


# Determinism


@pytest.mark.parametrize("seed", range(5))
def test_equal_input_gives_equal_plans_whatever_its_order(seed: int) -> None:
    reference, shuffled = _busy(None), _busy(random.Random(seed))
    for plan, other in zip(reference, shuffled, strict=True):
        assert plan == other
        assert [placement.allocation_id for placement in plan.placements] == [
            placement.allocation_id for placement in other.placements
        ]
    assert any(plan.evictions for plan in reference)
    assert any(plan.waits for plan in reference)


def _busy(shuffle: random.Random | None) -> list[Plan]:
    """Plans for the same course of things, with every sequence in another order."""
    chosen = random.Random(42)

    def mixed(items: list[Any]) -> list[Any]:
        return shuffle.sample(items, len(items)) if shuffle else items

    labels = [{"rack": f"r{number % 3}", "zone": "z"} for number in range(8)]
    hosts = [replace(host(number, *[(A100, H100)[number % 2]] * 4), labels=labels[number]) for number in range(8)]
    engine = Engine(SETTINGS)
    requests = [
        a_request(
            number,
            queued_at=at(number // 4),
            customer_id=chosen.randrange(4),
            workspace_id=chosen.randrange(2),
            priority=chosen.choice((0, 50)),
            preemptible=chosen.random() < 0.5,
            group=chosen.choice((None, "red", "blue")),
            limit_s=chosen.choice((None, 50)),
            **chosen.choice(({"gpus": 4}, {"gpus": 1}, {"milli": 300}, {"gpus": 2, "nodes": 2})),
        )
        for number in range(80)
    ]
    waiting, held = {request.allocation_id: request for request in requests[:60]}, dict[int, Held]()
    changes = Changes(
        complete=True,
        hosts=mixed(hosts),
        queued=mixed(list(waiting.values())),
        customers=mixed([CustomerView(number, weight=1.0 + number) for number in range(4)]),
        usage=mixed([Usage(number % 4, number % 2, at(-number), 1e5 * number) for number in range(8)]),
        groups=mixed([CapacityGroup("red", "all", 8000), CapacityGroup("blue", "all", 4000)]),
        reservations=mixed([reservation(500, 600, 10, 11), reservation(700, 800, 20, number=6)]),
    )
    plans = []
    for step in range(8):
        engine.update(changes, at(30 + 5 * step))
        plan = engine.decide(at(30 + 5 * step))
        plan = replace(plan, waits=engine.reasons())
        plans.append(plan)
        for placement in plan.placements:
            request = waiting.pop(placement.allocation_id)
            held[request.allocation_id] = Held(request, AllocationState.ACTIVE, 1, placement.parts, at(30 + 5 * step))
        over = [eviction.allocation_id for eviction in plan.evictions] + sorted(held)[: step % 3]
        new = requests[60 + 2 * step : 62 + 2 * step]
        waiting |= {request.allocation_id: request for request in new}
        for number in set(over):
            del held[number]
        changes = Changes(held=mixed(list(held.values())), gone=mixed(sorted(set(over))), queued=mixed(new))
    return plans
