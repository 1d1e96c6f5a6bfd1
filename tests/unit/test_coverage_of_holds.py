"""What a hold buys at prices that follow one another: enough for each charge, and never more than there is."""

import math
from collections.abc import Callable
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from api.billing.coverage import Coverage, Size, Stretch, cover, split, worst_until
from scheduler.intervals import Span
from scheduler.money import cumulative_charge_micro

HOUR = 3_600_000
prices = st.one_of(st.just(0), st.integers(0, 10**10))
sizes = st.tuples(st.integers(1, 1000), st.integers(1, 4)).map(lambda pair: Size(pair[0] * pair[1], pair[1]))
promises = st.lists(st.tuples(prices, st.integers(1, 100_000)), min_size=1, max_size=6)


def follows(found: list[tuple[int, int]]) -> Callable[[int], Stretch]:
    """Prices in their order, each kept for so many milliseconds; the last one to the end."""
    starts = [sum(length for _, length in found[:number]) for number in range(len(found))]

    def at(moment_ms: int) -> Stretch:
        number = starts.index(moment_ms)
        price, length = found[number]
        until_ms = None if number == len(found) - 1 else moment_ms + length
        return Stretch(moment_ms, until_ms, number, "on_demand", price)

    return at


def exact(found: list[tuple[int, int]], until_ms: int, milli: int) -> Fraction:
    """What that much time costs, by walking over the prices."""
    total, start = Fraction(0), 0
    for number, (price, length) in enumerate(found):
        end = until_ms if number == len(found) - 1 else min(until_ms, start + length)
        total += Fraction(price * milli * max(0, end - start), 1000 * HOUR)
        start += length
    return total


def bought(found: list[tuple[int, int]], size: Size, budget: int, until_ms: int) -> Coverage:
    at = follows(found)
    return cover(at(0), earlier_micro=0, budget_micro=budget, until_ms=until_ms, size=size, following=at)


@given(promises, sizes, st.integers(0, 10**9), st.integers(1, 500_000))
def test_it_is_enough_and_no_more_than_there_is(
    found: list[tuple[int, int]], size: Size, budget: int, until_ms: int
) -> None:
    coverage = bought(found, size, budget, until_ms)
    cost = exact(found, coverage.covers_until_ms, size.milli)
    stretches = [*coverage.passed, coverage.stretch]
    priced = sum(stretch.price_micro_per_gpu_hour > 0 for stretch in stretches)
    assert cost <= coverage.bought_micro <= math.ceil(cost) + priced * (size.devices + 1)
    if coverage.covers_until_ms > 0:
        assert coverage.bought_micro <= budget
    assert (
        coverage.bought_micro == worst_until(stretches, coverage.covers_until_ms, size) or not coverage.covers_until_ms
    )
    assert [stretch.until_ms for stretch in stretches[:-1]] == [stretch.from_ms for stretch in stretches[1:]]
    if coverage.covers_until_ms < until_ms:
        one_more = exact(found, coverage.covers_until_ms + 1, size.milli)
        assert math.ceil(one_more) + size.devices * (priced + 1) + priced + 1 > budget, "it reaches as far as it can"


@given(promises, sizes, st.lists(st.integers(0, 500_000), min_size=1, max_size=8))
def test_many_steps_buy_what_one_would(found: list[tuple[int, int]], size: Size, steps: list[int]) -> None:
    at, plenty = follows(found), 10**15
    now = bought(found, size, plenty, 1)
    for until_ms in sorted(steps):
        if until_ms > now.covers_until_ms:
            now = cover(
                now.stretch,
                earlier_micro=now.earlier_micro,
                budget_micro=plenty,
                until_ms=until_ms,
                size=size,
                following=at,
            )
    once = bought(found, size, plenty, now.covers_until_ms)
    assert (now.bought_micro, now.earlier_micro, now.stretch) == (once.bought_micro, once.earlier_micro, once.stretch)


@given(promises, sizes, st.integers(1, 500_000), st.data())
def test_no_proof_of_covered_time_costs_more_than_was_bought(
    found: list[tuple[int, int]], size: Size, until_ms: int, data: st.DataObject
) -> None:
    coverage = bought(found, size, 10**15, until_ms)
    stretches = [*coverage.passed, coverage.stretch]
    spans = (
        st.tuples(st.integers(0, until_ms), st.integers(0, until_ms)).map(sorted).filter(lambda pair: pair[0] < pair[1])
    )
    proof = {gpu: [Span(*data.draw(spans))] for gpu in range(size.devices)}
    milli = size.milli // size.devices
    parts = split(proof, stretches)
    charged = sum(
        cumulative_charge_micro(
            price_micro_per_gpu_hour=part.stretch.price_micro_per_gpu_hour,
            milli=milli,
            duration_ms=sum(span.length_ms for span in part.spans),
        )
        for part in parts
    )
    assert charged <= coverage.bought_micro
    for gpu, (span,) in proof.items():
        pieces = [piece for part in parts if part.gpu_id == gpu for piece in part.spans]
        assert pieces[0].from_ms == span.from_ms and pieces[-1].to_ms == span.to_ms
        assert [piece.to_ms for piece in pieces[:-1]] == [piece.from_ms for piece in pieces[1:]], "each moment once"


def test_a_promise_of_the_same_price_goes_on() -> None:
    first = Stretch(0, 1000, 7, "on_demand", HOUR)
    again = cover(
        first,
        earlier_micro=0,
        budget_micro=10**9,
        until_ms=2500,
        size=Size(1000, 1),
        following=lambda at: Stretch(at, at + 1000, 7, "on_demand", HOUR),
    )
    assert again == Coverage(2500, 2501, 0, Stretch(0, 3000, 7, "on_demand", HOUR))


def test_a_price_is_chosen_only_when_it_can_be_paid() -> None:
    """The wallet ends with the promise: what follows is chosen when there is money for it."""
    first, size = Stretch(0, 1000, 7, "on_demand", HOUR), Size(1000, 1)
    dearer: Callable[[int], Stretch] = lambda at: Stretch(at, None, 8, "on_demand", 2 * HOUR)  # noqa: E731
    poor = cover(first, earlier_micro=0, budget_micro=1003, until_ms=2500, size=size, following=dearer)
    assert poor == Coverage(1000, 1001, 0, first)
    richer = cover(first, earlier_micro=0, budget_micro=1004, until_ms=2500, size=size, following=dearer)
    assert richer == Coverage(1001, 1004, 1001, Stretch(1000, None, 8, "on_demand", 2 * HOUR), (first,))
