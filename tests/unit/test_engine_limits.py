"""A customer's own limits as the engine knows them: quota, balance, prices, and whether it is disabled."""

from dataclasses import replace

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


# Bounded work
