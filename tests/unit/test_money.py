"""Charges are exact rationals rounded once, holds are never less than what they hold for."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.money import affordable_ms, cumulative_charge_micro, discounted_micro, worst_case_charge_micro
from scheduler.prices import PriceTerms, Rates

prices = st.integers(0, 10**12)
shares = st.integers(1, 8000)
durations = st.integers(0, 10**11)


def _exact(price: int, milli: int, duration_ms: int) -> Fraction:
    return Fraction(price) * Fraction(milli, 1000) * Fraction(duration_ms, 3_600_000)


@given(prices, shares, durations)
def test_a_charge_is_rounded_half_up(price: int, milli: int, duration_ms: int) -> None:
    charged = cumulative_charge_micro(price_micro_per_gpu_hour=price, milli=milli, duration_ms=duration_ms)
    assert charged == math.floor(_exact(price, milli, duration_ms) + Fraction(1, 2))


@given(prices, shares, durations, durations)
def test_charges_never_fall_and_never_exceed_the_worst_case(price: int, milli: int, one: int, other: int) -> None:
    less, more = sorted((one, other))
    charges = [
        cumulative_charge_micro(price_micro_per_gpu_hour=price, milli=milli, duration_ms=each) for each in (less, more)
    ]
    assert charges[0] <= charges[1]
    assert charges[1] <= worst_case_charge_micro(price_micro_per_gpu_hour=price, milli=milli, duration_ms=more)


@given(st.integers(0, 10**15), prices, shares)
def test_what_is_affordable_is_the_longest_time_that_is_covered(budget: int, price: int, milli: int) -> None:
    reach = affordable_ms(budget_micro=budget, price_micro_per_gpu_hour=price, milli=milli)
    if reach is None:
        assert price == 0
        return
    costs = [
        worst_case_charge_micro(price_micro_per_gpu_hour=price, milli=milli, duration_ms=each)
        for each in (reach, reach + 1)
    ]
    assert costs[0] <= budget < costs[1]


def test_negative_arguments_are_refused() -> None:
    for function in (cumulative_charge_micro, worst_case_charge_micro):
        with pytest.raises(ValueError, match="negative"):
            function(price_micro_per_gpu_hour=-1, milli=1, duration_ms=1)
    with pytest.raises(ValueError, match="negative"):
        affordable_ms(budget_micro=-1, price_micro_per_gpu_hour=1, milli=1)


@given(prices, st.integers(0, 1000))
def test_a_discount_is_rounded_down_once(price: int, permille: int) -> None:
    assert discounted_micro(price, discount_permille=permille) == math.floor(price * (1 - Fraction(permille, 1000)))


@pytest.mark.parametrize(("price", "permille"), [(-1, 0), (1, -1), (1, 1001)])
def test_impossible_discounts_are_refused(price: int, permille: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1000"):
        discounted_micro(price, discount_permille=permille)


@given(prices, st.integers(0, 1000), st.integers(0, 1000), st.booleans(), st.booleans())
def test_the_lowest_price_that_a_request_may_have_counts(
    price: int, preemptible: int, reserved: int, is_preemptible: bool, is_reserved: bool
) -> None:
    rates = Rates.of(price, preemptible_permille=preemptible, reserved_permille=reserved)
    terms = rates.best(preemptible=is_preemptible, reserved=is_reserved)
    may_have = [PriceTerms.PREEMPTIBLE] * is_preemptible + [PriceTerms.RESERVED] * is_reserved
    assert terms in (may_have or [PriceTerms.ON_DEMAND])
    off = max(preemptible * is_preemptible, reserved * is_reserved)
    assert rates.at(terms) == math.floor(Fraction(price * (1000 - off), 1000))
