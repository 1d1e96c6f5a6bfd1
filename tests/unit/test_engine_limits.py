"""A customer's own limits as the engine knows them: quota, balance, prices, and whether it is disabled."""

from dataclasses import replace
from datetime import timedelta

import pytest

from scheduler.ports import WaitReason
from scheduler.prices import Rates
from scheduler.quota import Limits
from scheduler.views import CapacityGroup, CustomerView
from tests.unit.engine_world import SETTINGS, world
from tests.unit.simulated_world import A100, GIB, H100, host

FOUR = host(1, *[A100] * 4)


@pytest.mark.parametrize(
    ("limits", "figures"),
    [
        (Limits(gpus=3), {"gpus_limit": 3, "in_use": 2, "wanted": 2}),
        (Limits(cpu_milli=1999), {"cpu_milli_limit": 1999, "in_use": 1000, "wanted": 1000}),
        (Limits(memory_bytes=GIB), {"memory_bytes_limit": GIB, "in_use": GIB, "wanted": GIB}),
        (Limits(allocations=1), {"allocations_limit": 1, "in_use": 1, "wanted": 1}),
    ],
)
def test_a_quota_stands_against_it(limits: Limits, figures: dict[str, int]) -> None:
    there = world(FOUR)
    there.set_customer(CustomerView(1, limits=limits))
    there.run(10, (1, 10), (1, 11), customer_id=1)
    there.submit(1, gpus=2)
    assert there.starts() == []
    assert (there.reasons[1].code, there.reasons[1].figures) == ("quota", figures)
    assert str(figures["in_use"]) in there.reasons[1].detail
    there.gone(10)
    assert there.starts() == [1]


def test_a_large_request_gets_its_quota_once_it_has_aged() -> None:
    """Or its customer's small ones would always be faster."""
    there = world(FOUR, settings=replace(SETTINGS, ageing_step_s=60, ageing_points=0))
    there.set_customer(CustomerView(1, limits=Limits(gpus=2)))
    there.run(10, (1, 10), customer_id=1, limit_s=1000)
    there.submit(1, gpus=2)
    there.submit(2)
    assert there.starts() == [2]
    there.submit(3)
    there.pass_time(61)
    there.gone(2)
    assert there.starts() == []
    there.gone(10)
    assert there.starts() == [1]


def test_who_is_disabled_starts_nothing() -> None:
    there = world(FOUR)
    there.set_customer(CustomerView(1, disabled=True))
    there.submit(1)
    assert there.starts() == []
    assert there.reasons[1].detail == "The customer is disabled."


def payer(available_micro: int, **prices: int) -> CustomerView:
    return CustomerView(
        1, available_micro=available_micro, prices={model: Rates.of(price) for model, price in prices.items()}
    )


def test_the_balance_has_to_cover_its_first_time() -> None:
    there = world(FOUR)
    there.set_customer(payer(199, **{A100: 3600}))
    there.submit(1, gpus=2, hold_s=100)
    assert there.starts() == []
    assert there.reasons[1].code == "balance"
    assert there.reasons[1].figures == {"needed_micro": 200, "available_micro": 199}
    assert there.reasons[1].detail == "The balance does not cover its first 2 minutes."
    there.set_customer(payer(200, **{A100: 3600}))
    assert there.starts() == [1]


def test_what_starts_together_is_paid_together() -> None:
    there = world(FOUR)
    there.set_customer(payer(250, **{A100: 3600}))
    for number in (1, 2, 3):
        there.submit(number, hold_s=100)
    assert there.starts() == [1, 2]
    there.engine.refused({2: WaitReason("no_capacity", "somebody was faster", 1)})
    assert [placement.allocation_id for placement in there.engine.decide(there.now).placements] == [2]


def test_what_was_spent_is_as_the_store_says_from_then_on() -> None:
    there = world(FOUR)
    there.set_customer(payer(250, **{A100: 3600}))
    for number in (1, 2, 3):
        there.submit(number, hold_s=100)
    assert there.starts() == [1, 2]
    for number in (1, 2):
        there.gone(number)  # and what was held for them has been given back
    assert there.starts() == [3]


def test_it_takes_a_model_that_can_be_paid() -> None:
    there = world(host(1, H100, H100), host(2, A100, A100))
    there.set_customer(payer(100, **{A100: 3600, H100: 36_000}))
    there.submit(1, hold_s=100)
    there.decide()
    assert there.held[1].parts[0].host_id == 2
    assert there.held[1].request.demand.models == ()


def test_without_a_price_nothing_starts() -> None:
    there = world(FOUR)
    there.set_customer(payer(10**9, **{H100: 3600}))
    there.submit(1)
    assert there.starts() == []
    assert there.reasons[1].detail == f"No price is set for {A100}."
    there.set_host(host(2, H100))
    assert there.starts() == [1]


@pytest.mark.parametrize(
    ("available_micro", "started"),
    [(49, []), (99, [3]), (149, [2]), (199, [2, 3]), (249, [1]), (299, [1, 3]), (349, [1, 2]), (350, [1, 2, 3])],
)
def test_a_price_depends_on_terms_and_capacity_group(available_micro: int, started: list[int]) -> None:
    """They cost 200, 100 and 50: who can't pay holds up nobody who can."""
    there = world(FOUR)
    there.set_groups(CapacityGroup("team", None, 1000))
    rates, of_team = Rates.of(7200, preemptible_permille=500), {"team": {A100: Rates.of(1800)}}
    there.set_customer(CustomerView(1, available_micro=available_micro, prices={A100: rates}, group_prices=of_team))
    there.submit(1, hold_s=100)
    there.submit(2, hold_s=100, preemptible=True)
    there.submit(3, hold_s=100, group="team")
    assert sorted(there.starts()) == started


def test_what_a_reservation_costs() -> None:
    customer = CustomerView(1, prices={A100: Rates.of(7200, reserved_permille=250, preemptible_permille=100)})
    asked = world(FOUR).submit(1, reservation_id=5, preemptible=True)
    assert customer.price_micro(asked, A100) == 5400
    assert customer.price_micro(replace(asked, reservation_id=None), A100) == 6480
    assert customer.price_micro(asked, H100) is None


# Levels

BELOW = {"workspace_id": {"workspaces": {5: Limits(gpus=2)}}, "user_id": {"users": {5: Limits(gpus=2)}}}


@pytest.mark.parametrize("level", sorted(BELOW))
def test_a_limit_of_a_workspace_or_user_is_theirs_alone(level: str) -> None:
    there = world(FOUR)
    for number in (1, 2, 3):
        there.submit(number, **{level: 5})
    there.set_customer(CustomerView(1, **BELOW[level]))
    there.submit(4, **{level: 6})
    assert sorted(there.starts()) == [1, 2, 4]
    whose = level.removesuffix("_id")
    assert there.reasons[3].detail == f"The {whose}'s quota is 2 GPUs, 2 are in use and 1 more were asked for."
    there.gone(1)
    assert there.starts() == [3]


def test_the_tightest_on_the_way_stands() -> None:
    there = world(FOUR)
    there.set_customer(CustomerView(1, limits=Limits(gpus=1), users={5: Limits(gpus=2)}))
    for number in (1, 2):
        there.submit(number, user_id=5)
    assert there.starts() == [1]
    assert there.reasons[2].detail.startswith("The quota is 1 GPUs")


def test_what_was_held_before_a_limit_counts_against_it() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), (1, 11), customer_id=1, user_id=5)
    there.submit(1, user_id=5)
    there.set_customer(CustomerView(1, users={5: Limits(gpus=2)}))
    assert there.starts() == []
    there.set_customer(CustomerView(1, users={5: Limits(gpus=3)}))
    assert there.starts() == [1]


def test_another_model_is_taken_when_the_quota_of_one_is_used_up() -> None:
    there = world(host(1, A100, A100), host(2, H100, H100))
    there.set_customer(CustomerView(1, limits=Limits(gpu_models={"A100": 1})))
    for number in (1, 2, 3, 4):
        there.submit(number)
    assert there.starts() == [1, 2, 3]
    assert sorted(there.held[number].parts[0].host_id for number in (1, 2, 3)) == [1, 2, 2]
    there.submit(5, models=("A100",))
    there.decide()
    assert there.reasons[5].detail == "The quota is 1 A100 GPUs, 1 are in use and 1 more were asked for."


def test_tasks_are_counted_and_environments_are_not() -> None:
    there = world(FOUR)
    there.set_customer(CustomerView(1, limits=Limits(tasks=1)))
    for number in (1, 2):
        there.submit(number, task=True)
    there.submit(3)
    assert there.starts() == [1, 3]


def test_a_lease_that_would_be_too_long_waits() -> None:
    there = world(FOUR)
    there.set_customer(CustomerView(1, limits=Limits(lease_s=60)))
    there.submit(1, limit_s=60)
    there.submit(2, limit_s=61)
    there.submit(3)
    assert there.starts() == [1]
    assert "no limit" in there.reasons[3].detail


def test_a_limit_of_ones_own_keeps_nothing_from_colleagues() -> None:
    """However long it has stood in the way."""
    there = world(FOUR, settings=replace(SETTINGS, ageing_step_s=60, ageing_points=0))
    there.set_customer(CustomerView(1, limits=Limits(gpus=3), users={5: Limits(gpus=2)}))
    there.run(10, (1, 10), customer_id=1, user_id=5, limit_s=1000)
    there.submit(1, gpus=2, user_id=5)
    there.pass_time(61)
    there.submit(2, user_id=5)
    there.submit(3, user_id=6)
    there.submit(4, user_id=7)
    assert there.starts() == [3, 4], "what is left of their own is kept for the large one"


def test_who_was_refused_until_a_time_is_tried_then() -> None:
    there = world(FOUR)
    there.submit(1)
    assert there.starts() == [1]
    there.queued[1] = there.held.pop(1).request
    until = there.now + timedelta(seconds=100)
    there.engine.refused({1: WaitReason("quota", "This month's amount is spent.", 1, eta=until, eta_basis="limits")})
    assert [each.allocation_id for each in there.engine.decide(there.now).placements] == []
    reason = there.engine.reasons()[1]
    assert (reason.detail, reason.eta, reason.eta_basis) == ("This month's amount is spent.", until, "limits")
    assert [each.allocation_id for each in there.engine.decide(until).placements] == [1]


# Bounded work
