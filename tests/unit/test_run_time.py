"""How long a balance lasts, and who ends first: against a clock that ticks."""

import time
from collections.abc import Sequence
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from scheduler.run_time import Leaver, Spender, lasts_until_ms, who_ends

UNIT = 3_600_000 * 1000  # a rate that costs one micro-unit a millisecond
NOW = 1_000_000


def spender(number: int, *, covers_ms: int = 0, rate: int = UNIT, grace_ms: int = 10_000) -> Spender:
    return Spender(number, rate, NOW + covers_ms, grace_ms)


SPENDERS = st.lists(
    st.builds(
        spender,
        st.integers(1, 99),
        covers_ms=st.integers(-5_000, 100_000),
        rate=st.integers(0, 5 * UNIT),
        grace_ms=st.integers(0, 40_000),
    ),
    max_size=6,
)


def test_what_is_covered_draws_later() -> None:
    assert lasts_until_ms(100, [spender(1)], now_ms=NOW) == NOW + 100
    assert lasts_until_ms(100, [spender(1), spender(2)], now_ms=NOW) == NOW + 50
    assert lasts_until_ms(100, [spender(1), spender(2, covers_ms=60)], now_ms=NOW) == NOW + 80
    assert lasts_until_ms(0, [spender(1, covers_ms=70), spender(2, covers_ms=60)], now_ms=NOW) == NOW + 60
    assert lasts_until_ms(100, [spender(1, rate=0)], now_ms=NOW) is None
    assert lasts_until_ms(100, [], now_ms=NOW) is None
    assert lasts_until_ms(-5, [spender(1)], now_ms=NOW) == NOW, "credit can be lowered to what is owed"


@given(st.integers(0, 10**6), SPENDERS)
def test_the_money_lasts_so_long_and_not_a_millisecond_longer(budget: int, spenders: list[Spender]) -> None:
    def cost(until_ms: int) -> Fraction:
        return sum(
            (Fraction(each.rate * max(0, until_ms - max(NOW, each.covers_until_ms)), UNIT) for each in spenders),
            Fraction(0),
        )

    until = lasts_until_ms(budget, spenders, now_ms=NOW)
    if until is None:
        assert all(each.rate == 0 for each in spenders)
        return
    assert cost(until) <= budget < cost(until + 1)


def test_the_first_ends_and_what_comes_back_pays_for_the_others() -> None:
    both = [spender(1, covers_ms=50_000), spender(2, covers_ms=20_000)]
    assert who_ends(0, both, now_ms=NOW, margin_ms=5_000) == []
    later = NOW + 6_000
    assert who_ends(0, both, now_ms=later, margin_ms=5_000) == [1], "34 s of it come back, for the second"
    told = [Leaver(UNIT, NOW + 50_000, later + 10_000)]
    assert who_ends(0, both[1:], told, now_ms=later + 3_000, margin_ms=5_000) == [], "though it has not come yet"
    assert who_ends(-26_000, both[1:], told, now_ms=NOW + 46_000, margin_ms=5_000) == [2], "of which 26 s are spent"


def test_what_comes_back_too_late_is_not_counted_on() -> None:
    """The first has a long grace and is covered for longer; the second's cover ends before anything of it is back."""
    both = [spender(1, covers_ms=1_200_000, grace_ms=600_000), spender(2, covers_ms=60_000)]
    assert who_ends(0, both, now_ms=NOW, margin_ms=20_000) == [1]
    told = [Leaver(UNIT, NOW + 1_200_000, NOW + 600_000)]
    assert who_ends(0, both[1:], told, now_ms=NOW + 29_000, margin_ms=20_000) == []
    assert who_ends(0, both[1:], told, now_ms=NOW + 30_000, margin_ms=20_000) == [2], "with its grace"
    missing = [Leaver(UNIT, NOW + 500_000, NOW + 600_000)]
    assert who_ends(131_000, both[1:], missing, now_ms=NOW + 60_000, margin_ms=20_000) == []
    assert who_ends(130_000, both[1:], missing, now_ms=NOW + 60_000, margin_ms=20_000) == [2], "what it needs is gone"


LEAVERS = st.lists(
    st.builds(Leaver, st.integers(0, 5 * UNIT), st.integers(NOW, NOW + 200_000), st.integers(NOW, NOW + 100_000)),
    max_size=3,
)


@given(st.integers(-(10**5), 10**6), SPENDERS, LEAVERS, st.integers(0, 30_000))
def test_as_many_end_as_leave_the_others_their_notice(
    budget: int, spenders: list[Spender], leavers: list[Leaver], margin_ms: int
) -> None:
    """Those that end are the first ones, no more than needed, and the others are paid for until their own notice."""

    def must_end(staying: Sequence[Spender], told: Sequence[Leaver]) -> bool:
        earliest = min(each.covers_until_ms for each in staying)
        returns = [each.returns_micro for each in told if each.returns_micro < 0 or each.ends_ms < earliest]
        until = lasts_until_ms(budget + sum(returns), staying, now_ms=NOW)
        assert until is not None
        return until - NOW <= max(each.grace_ms for each in staying) + margin_ms

    costly = [each for each in spenders if each.rate]
    told, expected = list(leavers), 0
    while expected < len(costly) and must_end(costly[expected:], told):
        first = costly[expected]
        told.append(Leaver(first.rate, first.covers_until_ms, NOW + first.grace_ms))
        expected += 1
    ending = who_ends(budget, spenders, leavers, now_ms=NOW, margin_ms=margin_ms)
    assert ending == [each.allocation_id for each in costly[:expected]]


def test_thousands_that_end_at_once_are_found_at_once() -> None:
    many = [spender(n, covers_ms=n % 997, grace_ms=20_000 - n) for n in range(10_000)]
    began = time.process_time()
    assert who_ends(0, many, now_ms=NOW, margin_ms=5_000) == list(range(10_000))
    assert time.process_time() - began < 1, "a fresh sort for each one would take twenty"
