"""When a blocked request could start, and that nothing behind it delays that."""

from dataclasses import replace

import pytest

from scheduler.quota import Limits
from scheduler.views import CapacityGroup, CustomerView, Part, Reservation
from tests.unit.engine_world import GRACE_S, SETTINGS, EngineWorld, at, world
from tests.unit.simulated_world import A100, H100, host

TWO, FOUR = host(1, A100, A100), host(1, *[A100] * 4)


def eta(there: EngineWorld, number: int) -> tuple[float | None, str]:
    reason = there.reasons[number]
    return None if reason.eta is None else (reason.eta - at(0)).total_seconds(), reason.eta_basis


def latest(there: EngineWorld, number: int) -> float | None:
    """When it starts for certain."""
    figures = there.reasons[number].figures or {}
    told, basis = eta(there, number)
    return figures["latest_at"] - at(0).timestamp() if "latest_at" in figures else told if basis == "limits" else None


def test_it_starts_when_enough_limits_have_passed() -> None:
    there = world(FOUR)
    for index, limit_s in enumerate((50, 100, 200, 400)):
        there.run(10 + index, (1, 10 + index), limit_s=limit_s)
    there.submit(1, gpus=3)
    there.decide()
    assert eta(there, 1) == (200 + GRACE_S, "limits")


def test_without_limits_it_is_an_estimate() -> None:
    there = world(TWO)
    there.run(10, (1, 10), since_s=300)
    there.submit(1, gpus=2)
    there.decide()
    assert eta(there, 1) == (300, "estimate")


def test_beside_an_estimate_it_is_told_when_it_starts_at_the_latest() -> None:
    """Only for a time that is certain a place can be kept for sure."""
    there = world(TWO, host(2, A100, A100))
    there.run(10, (1, 10), (1, 11), limit_s=1000)
    there.run(11, (2, 20), (2, 21), since_s=100)
    there.submit(1, gpus=2)
    there.decide()
    assert eta(there, 1) == (100, "estimate")
    assert latest(there, 1) == 1000 + GRACE_S


def test_what_is_late_promises_nothing_any_more() -> None:
    there = world(TWO)
    there.run(10, (1, 10), (1, 11), limit_s=50)
    there.submit(1)
    there.decide()
    assert eta(there, 1) == (60, "limits")
    there.pass_time(70)
    there.decide()
    assert eta(there, 1) == (80, "estimate")


def test_beyond_what_is_looked_at_the_time_is_unknown() -> None:
    there = world(FOUR, settings=replace(SETTINGS, releases=2))
    for index in range(4):
        there.run(10 + index, (1, 10 + index), limit_s=100)
    there.submit(1, gpus=2)
    there.submit(2, gpus=3, customer_id=2)
    there.decide()
    assert eta(there, 1) == (110, "limits")
    assert eta(there, 2) == (None, "unknown")


def test_what_could_not_even_run_alone_has_no_time() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), limit_s=100)
    there.submit(1, gpus=5)
    there.decide()
    assert eta(there, 1) == (None, "unknown")


def test_a_gang_waits_for_all_of_its_hosts() -> None:
    there = world(TWO, host(2, A100, A100), host(3, H100, H100))
    there.run(10, (1, 10), limit_s=50)
    there.run(11, (2, 21), limit_s=90)
    there.submit(1, gpus=2, nodes=2)
    there.decide()
    assert eta(there, 1) == (90 + GRACE_S, "limits"), "with the third host, it would be of two models"


def blocked_head() -> EngineWorld:
    """Of four devices two are free, the others are so at 110 s; the first needs all."""
    there = world(FOUR)
    there.run(10, (1, 10), (1, 11), limit_s=100)
    there.submit(1, gpus=4)
    return there


@pytest.mark.parametrize(
    ("limit_s", "starts"), [(None, []), (101, []), (100, [2])], ids=["unlimited", "too long", "just in time"]
)
def test_only_what_is_sure_to_have_ended_goes_into_the_gap(limit_s: int | None, starts: list[int]) -> None:
    there = blocked_head()
    there.submit(2, gpus=2, customer_id=2, limit_s=limit_s)
    assert there.starts() == starts
    assert eta(there, 1) == (110, "limits")
    there.pass_time(110)
    for number in list(there.held):
        there.gone(number)
    assert there.starts() == [1]


def test_what_needs_another_place_is_not_held_up() -> None:
    there = blocked_head()
    there.set_host(host(2, H100))
    there.submit(2, customer_id=2)
    assert there.starts() == [2]


def test_the_first_keeps_its_place_when_unlimited_work_runs_elsewhere() -> None:
    """What might end sooner elsewhere must not make it give up what it has for sure."""
    there = blocked_head()
    there.set_host(host(2, *[H100] * 4))
    there.run(12, *((2, gpu_id) for gpu_id in range(20, 24)), since_s=1)
    there.submit(2, gpus=2, customer_id=2)
    assert there.starts() == []
    assert latest(there, 1) == 110


def test_who_is_first_in_the_order_has_a_place_kept_even_if_others_had_theirs_before() -> None:
    there = world(FOUR, settings=replace(SETTINGS, kept_places=1))
    there.run(10, (1, 10), (1, 11), limit_s=100)
    there.submit(1, gpus=4)
    there.decide()
    there.submit(2, gpus=3, priority=50, customer_id=2)
    there.decide()
    assert eta(there, 2) == (110, "limits")
    assert eta(there, 1)[1] != "limits", "its place is kept no longer"


def test_a_place_is_not_kept_for_who_may_not_have_it() -> None:
    """The quota that it lacks may take for ever to come."""
    there = blocked_head()
    there.decide()
    there.set_customer(CustomerView(1, limits=Limits(gpus=3)))
    there.submit(2, gpus=2, customer_id=2)
    assert there.starts() == [2]
    assert there.codes() == {1: "quota"}


def test_who_comes_before_takes_the_place_and_another_is_looked_for_at_once() -> None:
    there = blocked_head()
    there.decide()
    there.submit(2, gpus=2, customer_id=2, priority=10, limit_s=500)
    assert there.starts() == [2]
    assert eta(there, 1) == (510, "limits")


BOOKED = Reservation(5, 9, at(300), at(400), (Part(1, tuple((gpu, 1000) for gpu in range(10, 14))),), 0, 0)


@pytest.mark.parametrize(
    ("limit_s", "starts_s"),
    [(180, 110), (181, 400), (None, 400)],
    ids=["done before", "not done before", "unlimited"],
)
def test_it_starts_before_a_reservation_if_it_ends_before_and_else_after(limit_s: int | None, starts_s: int) -> None:
    there = world(FOUR, reservations=[BOOKED])
    there.run(10, (1, 10), (1, 11), limit_s=100)
    there.submit(1, gpus=4, limit_s=limit_s)
    there.decide()
    assert eta(there, 1) == (starts_s, "limits")


def test_the_quota_of_its_group_is_kept_with_the_place() -> None:
    there = world(FOUR, host(2, *[A100] * 4), groups=[CapacityGroup("red", None, 6000)])
    there.run(10, (1, 10), (1, 11), limit_s=100)
    there.run(11, (2, 20), limit_s=1000, group="red")
    there.submit(1, gpus=4, group="red")
    there.submit(2, gpus=2, group="red", customer_id=2)
    there.submit(3, gpus=2, group="red", customer_id=3, limit_s=50)
    assert there.starts() == [3], "it gives the quota back in time"
    assert there.codes()[2] == "capacity_group"


def test_the_quota_of_its_customer_is_kept_with_the_place() -> None:
    there = blocked_head()
    there.set_host(host(2, *[A100] * 2))
    there.set_customer(CustomerView(1, limits=Limits(gpus=5)))
    there.submit(2, gpus=2)
    there.submit(3, gpus=2, customer_id=2)
    assert there.starts() == [3]
    assert there.reasons[2].detail == "What is left of the quota is kept for an earlier request of the same customer."


def test_cpu_and_memory_count_as_devices_do() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), cpu_milli=60_000, limit_s=100)
    there.submit(1, cpu_milli=30_000)
    there.decide()
    assert eta(there, 1) == (110, "limits")


def waiting_at_the_first() -> EngineWorld:
    """For a host whose two devices are expected to be free sooner than those of the other."""
    there = world(TWO, host(2, A100, A100))
    for gpu_id, since_s in ((10, 100), (11, 100), (20, 500), (21, 500)):
        there.run(gpu_id, (gpu_id // 10, gpu_id), since_s=since_s)
    there.submit(1, gpus=2)
    there.decide()
    return there


def test_it_stays_where_less_is_in_its_way_whatever_estimates_say() -> None:
    """Else what ends where it waits would be given to others, and it might never start."""
    there = waiting_at_the_first()
    assert eta(there, 1) == (100, "estimate")
    there.gone(20)
    there.gone(21)
    there.run(22, (2, 20), (2, 21), since_s=-49)  # it will just have begun
    there.gone(10)
    there.pass_time(50)
    there.submit(2, customer_id=2)
    assert there.starts() == []
    assert eta(there, 1) == (50 + 150, "estimate")
    there.gone(11)
    assert there.starts() == [1]


def test_it_moves_to_where_less_is_in_its_way() -> None:
    there = waiting_at_the_first()
    there.gone(20)
    there.gone(21)
    assert there.starts() == [1]


def test_it_leaves_a_place_that_is_lost() -> None:
    there = waiting_at_the_first()
    there.set_host(replace(TWO, why_not="it is draining"))
    there.decide()
    assert eta(there, 1) == (500, "estimate")
