"""Spans of time: the union is the set of milliseconds, whatever the order, and absorbing is incremental union."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.intervals import Span, absorb, clip, total_ms, union

spans = st.builds(lambda start, length: Span(start, start + length), st.integers(0, 60), st.integers(1, 20))
batches = st.lists(st.lists(spans, min_size=1, max_size=5), max_size=6)


def _milliseconds(many: list[Span] | tuple[Span, ...]) -> set[int]:
    return {at for span in many for at in range(span.from_ms, span.to_ms)}


@given(st.lists(spans, max_size=12))
def test_the_union_is_the_set_of_milliseconds(many: list[Span]) -> None:
    joined = union(many)
    assert _milliseconds(joined) == _milliseconds(many)
    assert total_ms(many) == len(_milliseconds(many))
    assert all(one.to_ms < other.from_ms for one, other in pairwise(joined))


@given(st.lists(spans, max_size=8), st.randoms())
def test_order_and_repetition_do_not_matter(many: list[Span], random: Random) -> None:
    shuffled = many + many[:3]
    random.shuffle(shuffled)
    assert union(shuffled) == union(many)


@given(batches)
def test_absorbing_piece_by_piece_is_the_union(arrivals: list[list[Span]]) -> None:
    """As the meter does it: only the known spans that a batch overlaps or touches are looked at."""
    known: set[Span] = set()
    proven = 0
    for proof in arrivals:
        low, high = min(span.from_ms for span in proof), max(span.to_ms for span in proof)
        touched = sorted(span for span in known if span.to_ms >= low and span.from_ms <= high)
        change = absorb(touched, proof)
        assert change.gained_ms >= 0
        known = known - set(touched) | set(change.merged)
        proven += change.gained_ms
    everything = [span for proof in arrivals for span in proof]
    assert tuple(sorted(known)) == union(everything)
    assert proven == total_ms(everything)


@given(spans, st.integers(0, 80), st.integers(0, 80))
def test_clipping(span: Span, low: int, high: int) -> None:
    part = clip(span, not_before_ms=low, not_after_ms=high)
    assert _milliseconds((part,) if part else ()) == _milliseconds((span,)) & set(range(low, high))


def test_a_span_has_a_length() -> None:
    for end in (5, 4):
        with pytest.raises(ValueError, match="length"):
            Span(5, end)
