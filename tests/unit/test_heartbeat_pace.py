"""What happens now and then is told at once, and much at a steady pace."""

import pytest

from node.daemon.heartbeat import Pace


def test_a_few_go_at_once_and_many_at_their_pace() -> None:
    pace, now_s, begun = Pace(3, 0.5, 100.0), 100.0, []
    for _ in range(6):
        now_s += pace.rest_s(now_s)
        begun.append(now_s)
        pace.begin(now_s)
    assert begun == pytest.approx([100.0, 100.0, 100.0, 100.5, 101.0, 101.5])


def test_rest_brings_back_no_more_than_a_few() -> None:
    pace = Pace(2, 0.5, 0.0)
    for _ in range(2):
        pace.begin(0.0)
    assert pace.rest_s(0.0) == pytest.approx(0.5)
    assert pace.rest_s(0.2) == pytest.approx(0.3)
    for _ in range(2):
        assert pace.rest_s(1000.0) == 0
        pace.begin(1000.0)
    assert pace.rest_s(1000.0) == pytest.approx(0.5)
