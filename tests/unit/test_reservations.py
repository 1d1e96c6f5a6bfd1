"""Advance reservations in the engine: kept free, cleared in time, and given to their own requests."""

from dataclasses import replace

import pytest

from scheduler.views import Part, Reservation
from tests.unit.engine_world import GRACE_S, EngineWorld, at, world
from tests.unit.simulated_world import A100, GIB, H100, host

FOUR = host(1, *[A100] * 4)


def reservation(starts_s: float, ends_s: float, *gpu_ids: int, number: int = 5, cpu_milli: int = 8000) -> Reservation:
    """For customer 9, of whole devices of host 1, or of those with ids from 20 on host 2, and so on."""
    hosts = sorted({gpu_id // 10 for gpu_id in gpu_ids})
    parts = tuple(Part(host_id, tuple((each, 1000) for each in gpu_ids if each // 10 == host_id)) for host_id in hosts)
    return Reservation(number, 9, at(starts_s), at(ends_s), parts, cpu_milli, GIB)


@pytest.mark.parametrize(("limit_s", "starts"), [(None, []), (91, []), (90, [1])])
def test_what_can_not_end_before_avoids_the_devices(limit_s: int | None, starts: list[int]) -> None:
    there = world(FOUR, reservations=[reservation(100, 200, 10, 11)])
    there.submit(1, gpus=3, limit_s=limit_s)
    assert there.starts() == starts
    if not starts:
        assert there.reasons[1].code == "reserved"
        assert there.reasons[1].detail.startswith("4 of 4 GPUs that fit are free, and kept for an advance reservation")


def test_other_devices_are_open_to_all() -> None:
    there = world(FOUR, reservations=[reservation(100, 200, 10, 11)])
    there.submit(1, gpus=2)
    plan = there.decide()
    assert plan.placements[0].parts[0].devices == ((12, 1000), (13, 1000))


def test_it_starts_at_its_time_on_its_devices() -> None:
    there = world(FOUR, reservations=[reservation(100, 200, 12, 13)])
    there.submit(1, gpus=2, customer_id=9, reservation_id=5)
    assert there.starts() == []
    reason = there.reasons[1]
    assert (reason.code, reason.eta, reason.eta_basis) == ("reservation", at(100), "reservation")
    assert reason.detail == "Its reservation begins at 2026-01-01 00:01 UTC."
    there.pass_time(100)
    plan = there.decide()
    assert plan.placements[0].parts == (Part(1, ((12, 1000), (13, 1000))),)


def test_preemptible_work_is_cleared_in_time_and_once() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), (1, 11), preemptible=True)
    there.run(11, (1, 12), preemptible=True)
    there.reserve(reservation(100, 200, 10), reservation(100, 200, 11, number=6))
    there.pass_time(100 - GRACE_S - 1)
    assert there.evicts() == []
    there.pass_time(1)
    plan = there.decide()
    assert [(eviction.allocation_id, eviction.in_favour_of) for eviction in plan.evictions] == [(10, None)]
    assert plan.evictions[0].reason == "It gives way to an advance reservation."
    there.pass_time(1)
    assert there.evicts() == []


def test_what_has_begun_is_not_displaced() -> None:
    there = world(FOUR, reservations=[reservation(0, 1000, 10, 11, 12, 13)])
    there.submit(1, gpus=4, customer_id=9, reservation_id=5, preemptible=True)
    assert there.starts() == [1]
    there.submit(2, priority=1000)
    assert there.evicts() == []


def test_nobody_else_may_use_what_it_leaves_free_once_it_has_begun() -> None:
    there = world(FOUR, reservations=[reservation(0, 1000, 10, 11, 12, 13)])
    there.submit(1, gpus=2, customer_id=9, reservation_id=5)
    there.submit(2, limit_s=1, customer_id=9)
    there.submit(3, limit_s=1)
    assert there.starts() == [1]


def test_the_cpu_of_what_is_in_it_is_not_counted_twice() -> None:
    there = world(FOUR, reservations=[reservation(0, 1000, 10, 11, cpu_milli=40_000)])
    there.submit(1, gpus=2, customer_id=9, reservation_id=5, cpu_milli=30_000)
    assert there.starts() == [1]
    there.submit(2, cpu_milli=24_001)
    assert there.starts() == []
    there.cancel(2)
    there.submit(3, cpu_milli=24_000)
    assert there.starts() == [3], "of 64,000 it leaves what is not reserved"


def test_the_cpu_that_it_reserves_is_kept_for_it() -> None:
    there = world(FOUR, reservations=[reservation(0, 1000, 10, 11, cpu_milli=40_000)])
    there.submit(1, cpu_milli=25_000)
    assert there.starts() == []


def inside(**options: object) -> EngineWorld:
    there = world(FOUR, host(2, H100), reservations=[reservation(0, 1000, 10, 11, 20)])
    there.submit(1, customer_id=9, reservation_id=5, **options)
    there.decide()
    return there


def test_its_requests_get_what_they_ask_for_of_it() -> None:
    assert inside(models=("H100",)).held[1].parts[0].host_id == 2
    assert inside(gpus=2).held[1].parts[0].host_id == 1
    assert inside(bound_host_id=2).held[1].parts[0].host_id == 2


@pytest.mark.parametrize("options", [{"gpus": 3}, {"models": ("B200",)}, {"cpu_milli": 65_000}])
def test_what_it_does_not_have_they_wait_for(options: dict[str, object]) -> None:
    assert inside(**options).codes() == {1: "reservation"}


def test_a_gang_in_it_is_of_one_model() -> None:
    assert inside(nodes=2).codes() == {1: "reservation"}
    there = world(FOUR, host(2, A100), reservations=[reservation(0, 1000, 10, 20)])
    there.submit(1, nodes=2, customer_id=9, reservation_id=5)
    there.decide()
    assert [part.host_id for part in there.held[1].parts] == [1, 2]


def test_shares_of_its_devices_are_put_together() -> None:
    there = inside(milli=400)
    there.submit(2, milli=400, customer_id=9, reservation_id=5)
    there.decide()
    assert there.held[1].parts == there.held[2].parts


def test_others_in_it_are_waited_for() -> None:
    there = world(FOUR, reservations=[reservation(0, 1000, 10)])
    for number in (1, 2):
        there.submit(number, customer_id=9, reservation_id=5)
    assert there.starts() == [1]
    assert there.reasons[2].detail == "Others in its reservation use what it needs."
    there.gone(1)
    assert there.starts() == [2]


def test_nothing_starts_on_a_host_that_takes_no_new_work() -> None:
    there = world(replace(FOUR, why_not="it is draining"), reservations=[reservation(0, 1000, 10)])
    there.submit(1, customer_id=9, reservation_id=5)
    assert there.starts() == []
    assert there.reasons[1].detail == "Its reservation is on host h1, which takes no new work now: it is draining."


def test_when_it_is_over_its_devices_are_free_and_its_requests_wait_for_nothing() -> None:
    there = world(FOUR, reservations=[reservation(0, 100, 10, 11, 12, 13)])
    there.submit(1)
    there.submit(2, customer_id=9, reservation_id=5, gpus=5)
    assert there.starts() == []
    there.pass_time(100)
    assert there.starts() == [1]
    assert there.reasons[2].detail == "Its reservation is over."


def test_if_it_is_given_up_its_devices_are_free_at_once() -> None:
    there = world(FOUR, reservations=[reservation(100, 200, 10, 11, 12, 13)])
    there.submit(1)
    assert there.starts() == []
    there.reserve()
    assert there.starts() == [1]


def test_who_waits_for_its_end_does_not_keep_its_devices_from_it() -> None:
    there = world(FOUR, reservations=[reservation(100, 200, 10, 11, 12, 13)])
    there.submit(1, gpus=4)
    there.submit(2, gpus=4, customer_id=9, reservation_id=5)
    there.decide()
    assert (there.reasons[1].eta, there.reasons[1].eta_basis) == (at(200), "limits")
    there.pass_time(100)
    assert there.starts() == [2]


def test_the_next_one_of_the_same_devices_does_not_keep_them_from_it() -> None:
    there = world(FOUR, reservations=[reservation(0, 100, 10, 11), reservation(100, 200, 10, 11, number=6)])
    there.submit(1, gpus=2, customer_id=9, reservation_id=5)
    assert there.starts() == [1]
