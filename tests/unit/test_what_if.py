"""When and where a request would start, without queueing it."""

import copy
from dataclasses import replace

import pytest

from scheduler.plan_protocol import PlanAnswer, When
from scheduler.views import CapacityGroup, CustomerView
from tests.unit.engine_world import GRACE_S, EngineWorld, a_request, at, world
from tests.unit.simulated_world import A100, host
from tests.unit.test_reservations import reservation

FOUR = host(1, *[A100] * 4)


def asked(there: EngineWorld, **options: object) -> PlanAnswer:
    """As of the world's present; the engine must decide afterwards as if nobody had asked."""
    there.decide()
    undisturbed = copy.deepcopy(there.engine)
    answer = there.engine.what_if(a_request(0, queued_at=there.now, **options), there.now)
    assert there.engine.decide(there.now) == undisturbed.decide(there.now)
    assert there.engine.what_if(a_request(0, queued_at=there.now, **options), there.now) == answer
    return answer


def test_it_would_start_now() -> None:
    answer = asked(world(FOUR), gpus=2)
    assert (answer.when, answer.reason) == (When.NOW, None)
    assert answer.parts[0].devices == ((10, 1000), (11, 1000))


def test_it_would_start_later() -> None:
    there = world(FOUR)
    there.run(10, *((1, gpu_id) for gpu_id in range(10, 14)), limit_s=100)
    there.submit(1, priority=5, gpus=5)
    answer = asked(there, gpus=4)
    assert answer.reason is not None
    assert (answer.when, answer.reason.eta, answer.reason.eta_basis) == (When.LATER, at(100 + GRACE_S), "limits")
    assert (answer.reason.code, answer.reason.position) == ("no_capacity", 2)


def test_a_gang_is_told_all_of_its_hosts() -> None:
    there = world(*(replace(host(number, A100, A100), labels={"rack": f"r{number // 3}"}) for number in (1, 2, 3, 4)))
    there.run(10, (3, 30), limit_s=100)
    answer = asked(there, nodes=2, gpus=2, within="rack")
    assert (answer.when, [part.host_id for part in answer.parts]) == (When.NOW, [1, 2])
    there.run(11, (1, 10), limit_s=50)
    answer = asked(there, nodes=2, gpus=2, within="rack")
    assert answer.reason is not None
    assert (answer.when, answer.reason.eta) == (When.LATER, at(50 + GRACE_S))


def test_what_is_kept_for_others_is_not_offered() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), limit_s=100)
    there.submit(1, gpus=4, priority=5)
    assert asked(there).when is When.UNKNOWN
    assert asked(there, limit_s=80).when is When.NOW
    assert asked(there, priority=6).when is When.NOW


def test_others_would_give_way_to_it() -> None:
    there = world(FOUR)
    there.run(10, *((1, gpu_id) for gpu_id in range(10, 14)), preemptible=True)
    answer = asked(there, priority=5)
    assert answer.reason is not None
    assert (answer.when, answer.reason.code) == (When.LATER, "preempting")
    assert there.held[10].state == "active"


def test_what_could_never_run_never_would() -> None:
    assert asked(world(FOUR), gpus=5).when is When.NEVER
    there = world(FOUR, groups=[CapacityGroup("red", None, 1000)])
    assert asked(there, gpus=2, group="red").when is When.NEVER


def test_its_customers_limits_are_left_out() -> None:
    there = world(FOUR)
    there.set_customer(CustomerView(1, disabled=True))
    assert asked(there).when is When.NOW


@pytest.mark.parametrize(("starts_s", "when"), [(0, When.NOW), (500, When.LATER)])
def test_in_a_reservation(starts_s: float, when: When) -> None:
    there = world(FOUR, reservations=[reservation(starts_s, 1000, 10, 11)])
    answer = asked(there, gpus=2, customer_id=9, reservation_id=5)
    assert answer.when is when
    if answer.reason is not None:
        assert (answer.reason.eta, answer.reason.eta_basis) == (at(500), "reservation")
