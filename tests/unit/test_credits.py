"""Which credits are spent first, and what of them stays when their day has come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.credits import keep, spend

AMOUNTS = st.lists(st.integers(0, 10**15), max_size=6)


def test_the_first_is_spent_before_the_second() -> None:
    assert spend([5, 10, 3], 0) == [5, 10, 3]
    assert spend([5, 10, 3], 7) == [0, 8, 3]
    assert spend([5, 10, 3], 100) == [0, 0, 0]
    assert keep([5, 10, 3], 7) == [5, 2, 0]


@given(AMOUNTS, st.integers(0, 10**16))
def test_nothing_is_lost_between_what_is_spent_and_what_stays(left: list[int], amount: int) -> None:
    after = spend(left, amount)
    assert sum(left) - sum(after) == min(sum(left), amount)
    assert [a + b for a, b in zip(after, keep(left, amount), strict=True)] == left
    assert spend(spend(left, amount // 2), amount - amount // 2) == after, "in two steps as in one"


@pytest.mark.parametrize(("left", "amount"), [([-1], 0), ([1], -1)])
def test_negative_amounts_are_refused(left: list[int], amount: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        spend(left, amount)
    with pytest.raises(ValueError, match="negative"):
        keep(left, amount)
