"""Fair shares with decay, against numbers worked out by hand: a half-life of 100 s, a cluster of 4 GPUs."""

import math
from datetime import timedelta

import pytest

from scheduler.demand import Demand
from scheduler.engine.fair_share import FairShare, size
from scheduler.packing.shape import Shape
from scheduler.views import Usage
from tests.unit.engine_world import at

HALF_LIFE_S = 100.0
SPAN_S = HALF_LIFE_S / math.log(2)  # the sum of all weights of the past, if now weighs one
TOTAL = (4000.0, 8000.0, 1000.0)
TWO_GPUS = (2000.0, 0.0, 0.0)


def shares() -> FairShare:
    return FairShare(HALF_LIFE_S, TOTAL)


def test_who_has_used_nothing_has_no_share() -> None:
    assert shares().customer(1, 1.0, at(0)) == 0.0
    assert shares().workspace(1, 1, at(0)) == 0.0


def test_what_is_held_counts_at_once() -> None:
    sharing = shares()
    sharing.begin(1, 7, TWO_GPUS, at(0))
    assert sharing.customer(1, 1.0, at(0)) == 0.5
    assert sharing.workspace(1, 7, at(0)) == 0.5
    assert sharing.workspace(1, 8, at(0)) == 0.0


def test_what_was_used_decays_by_half_in_a_half_life() -> None:
    sharing = shares()
    sharing.begin(1, 7, TWO_GPUS, at(0))
    sharing.end(1, 7, TWO_GPUS, at(10))
    at_its_end = sharing.customer(1, 1.0, at(10))
    assert at_its_end == pytest.approx(0.5 * (1 - 0.5**0.1))
    assert sharing.customer(1, 1.0, at(110)) == pytest.approx(at_its_end / 2)
    assert sharing.customer(1, 1.0, at(310)) == pytest.approx(at_its_end / 8)


def test_held_for_a_half_life_half_of_it_counts_as_used() -> None:
    sharing = shares()
    sharing.begin(1, 7, TWO_GPUS, at(0))
    assert sharing.customer(1, 1.0, at(HALF_LIFE_S)) == pytest.approx(0.5 + 0.25)
    assert sharing.customer(1, 1.0, at(100 * HALF_LIFE_S)) == pytest.approx(0.5 + 0.5)


@pytest.mark.parametrize(
    ("held", "share"),
    [((1000.0, 4000.0, 100.0), 0.5), ((1000.0, 0.0, 900.0), 0.9), ((3000.0, 4000.0, 100.0), 0.75)],
)
def test_the_dominant_resource_decides(held: tuple[float, float, float], share: float) -> None:
    sharing = shares()
    sharing.begin(1, 7, held, at(0))
    assert sharing.customer(1, 1.0, at(0)) == share


def test_a_weight_of_two_halves_the_share() -> None:
    sharing = shares()
    sharing.begin(1, 7, TWO_GPUS, at(0))
    assert sharing.customer(1, 2.0, at(0)) == 0.25


def test_the_share_does_not_depend_on_how_often_one_asks() -> None:
    asked, not_asked = shares(), shares()
    for sharing in (asked, not_asked):
        sharing.begin(1, 7, TWO_GPUS, at(0))
    for seconds in range(1, 50):
        asked.customer(1, 1.0, at(seconds / 7))
    assert asked.customer(1, 1.0, at(50)) == not_asked.customer(1, 1.0, at(50))


def test_past_use_is_loaded_with_the_decay_since_then_whatever_its_order() -> None:
    """8000 GPU-thousandth-seconds a half-life ago, and as many just now: 12000, over the weights of the past."""
    past = [
        Usage(1, 7, at(100), gpu_milli_s=8000.0),
        Usage(1, 8, at(0), gpu_milli_s=8000.0),
    ]
    expected = 12000.0 / SPAN_S / 4000.0
    for usages in (past, past[::-1]):
        sharing = shares()
        sharing.begin(1, 9, TWO_GPUS, at(0))  # forgotten
        sharing.load(usages)
        assert sharing.customer(1, 1.0, at(100)) == pytest.approx(expected)
        assert sharing.workspace(1, 8, at(100)) == pytest.approx(expected / 3)


def test_a_clock_that_was_put_back_changes_nothing() -> None:
    sharing = shares()
    sharing.begin(1, 7, TWO_GPUS, at(100))
    sharing.end(1, 7, TWO_GPUS, at(100) - timedelta(seconds=50))
    assert sharing.customer(1, 1.0, at(100)) == 0.0


def test_the_size_of_a_demand_is_that_of_all_its_nodes() -> None:
    assert size(Demand(Shape(500, 10, 1, milli=460))) == (460.0, 500.0, 10.0)
    assert size(Demand(Shape(500, 10, 8), nodes=4)) == (32_000.0, 2_000.0, 40.0)
