"""The sliding window that rate limits count with."""

import pytest

from api.rate_limit import SlidingWindow


def test_no_more_than_the_amount_in_a_window() -> None:
    window = SlidingWindow(3, 60)
    assert [window.hit("a", now) for now in (0, 1, 2)] == [0, 0, 0]
    assert window.hit("a", 3) == 57
    assert window.hit("b", 3) == 0, "each is counted alone"


def test_the_window_before_counts_by_what_is_left_of_it() -> None:
    window = SlidingWindow(10, 60)
    assert all(window.hit("a", 59) == 0 for _ in range(10))
    assert window.hit("a", 60) > 0, "no second burst right behind the end of a window"
    assert [window.hit("a", 90) == 0 for _ in range(6)] == [True] * 5 + [False]
    assert window.hit("a", 60 * 3) == 0, "what is older than two windows is forgotten"


@pytest.mark.parametrize("hits_at", [(5,) * 4, (50, 55, 58, 61, 62)])
def test_who_waits_as_long_as_told_gets_through(hits_at: tuple[int, ...]) -> None:
    window = SlidingWindow(3, 60)
    waits = [window.hit("a", now) for now in hits_at]
    assert waits[-1] > 0
    assert window.hit("a", hits_at[-1] + waits[-1] - 0.5) > 0
    assert window.hit("a", hits_at[-1] + waits[-1] + 0.001) == 0
