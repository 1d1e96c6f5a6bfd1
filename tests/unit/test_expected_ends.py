"""When what is held will be free: promises, and estimates that say so."""

from dataclasses import replace

import pytest

from scheduler.cluster.cluster import Cluster
from scheduler.engine.capacity import Capacity
from scheduler.engine.expected_ends import ExpectedEnd, expected_end, in_order, promised_end
from scheduler.engine.fair_share import FairShare
from scheduler.engine.holdings import Holdings
from scheduler.engine.tallies import Tallies
from scheduler.packing.scoring import BestFit
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Reservation
from tests.unit.engine_world import GRACE_S, at
from tests.unit.simulated_world import request

HELD = Held(request(1, queued_at=at(0), limit_s=100), AllocationState.ACTIVE, 1, (), at(0))
UNLIMITED = Held(request(1, queued_at=at(0)), AllocationState.ACTIVE, 1, (), at(0))
BOOKED = Reservation(5, 1, at(0), at(70), (Part(3, ((30, 1000),)),), 0, 0)


def promised(held: Held, leaving_since: float | None = None, reservation: Reservation | None = None) -> float | None:
    since = None if leaving_since is None else at(leaving_since)
    found = promised_end(held, grace_s=GRACE_S, leaving_since=since, reservation=reservation)
    return None if found is None else (found - at(0)).total_seconds()


def test_a_limit_is_a_promise_with_its_grace() -> None:
    assert promised(HELD) == 110
    assert promised(UNLIMITED) is None


def test_what_was_told_to_end_ends_within_its_grace_if_that_is_sooner() -> None:
    leaving = replace(HELD, state=AllocationState.RELEASING)
    assert promised(leaving, leaving_since=30) == 40
    assert promised(leaving, leaving_since=105) == 110
    assert promised(HELD, leaving_since=30) == 110, "it does not leave after all"


def test_a_reservation_ends_what_is_in_it() -> None:
    assert promised(UNLIMITED, reservation=BOOKED) == 80
    assert promised(HELD, reservation=BOOKED) == 80


@pytest.mark.parametrize(("elapsed", "end"), [(0, 60), (59, 119), (60, 120), (1000, 2000)])
def test_what_has_no_limit_runs_as_long_again(elapsed: float, end: float) -> None:
    assert expected_end(UNLIMITED, at(elapsed), promised=None) == ExpectedEnd(at(end), 1, False)


@pytest.mark.parametrize(("now", "end", "certain"), [(50, 110, True), (110, 111, False), (130, 150, False)])
def test_a_promise_that_was_not_kept_is_none(now: float, end: float, certain: bool) -> None:
    assert expected_end(HELD, at(now), promised=at(110)) == ExpectedEnd(at(end), 1, certain)


def test_ends_are_in_order_with_those_of_reservations() -> None:
    cluster = Cluster(BestFit())
    holdings = Holdings(cluster, Capacity(), FairShare(1.0), Tallies(cluster))
    holdings.put(UNLIMITED, at(0))
    holdings.put(replace(HELD, request=replace(HELD.request, allocation_id=2)), at(0))
    inside = replace(UNLIMITED.request, allocation_id=3, reservation_id=5)
    holdings.put(replace(UNLIMITED, request=inside), at(0))
    over = replace(BOOKED, reservation_id=4, ends_at=at(5))
    assert in_order(holdings, {5: BOOKED, 4: over}, at(20), grace_s=GRACE_S) == [
        ExpectedEnd(at(70), None, True, ("reservation", 5, 3)),
        ExpectedEnd(at(80), 1, False),
        ExpectedEnd(at(80), 3, True),
        ExpectedEnd(at(110), 2, True),
    ]
