"""Ranges of indices: a set in few words."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from api.tasks import ranges

indices = st.sets(st.integers(0, 60), max_size=40)


def members(held: ranges.Ranges) -> list[int]:
    return [index for first, last in held for index in range(first, last + 1)]


@given(indices, st.permutations(range(61)))
def test_what_is_put_in_is_there_once_in_the_fewest_words(wanted: set[int], order: list[int]) -> None:
    held: ranges.Ranges = ()
    for index in order:
        if index in wanted:
            held = ranges.put(held, [index])
    assert members(held) == sorted(wanted)
    assert ranges.count(held) == len(wanted)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(held))
    assert ranges.from_text(ranges.to_text(held)) == held


@given(indices, st.lists(st.integers(0, 12)))
def test_the_smallest_are_taken_each_once(wanted: set[int], counts: list[int]) -> None:
    left = ranges.put((), wanted)
    taken: list[int] = []
    for most in counts:
        some, left = ranges.take(left, most)
        assert len(some) == min(most, len(wanted) - len(taken))
        taken += some
    assert taken + members(left) == sorted(wanted)


def test_an_array_is_a_short_text() -> None:
    assert ranges.to_text(ranges.put((), range(10_000))) == "0-9999"
    assert ranges.take(((0, 9999),), 2) == ([0, 1], ((2, 9999),))
