"""What everybody who waits is told: a code, a sentence, figures, the place in the queue, and when it may start."""

from dataclasses import replace

import pytest

from scheduler.demand import Operator, Selector
from scheduler.engine.blocked import Code
from scheduler.quota import Limits
from scheduler.views import CapacityGroup, CustomerView
from tests.unit.engine_world import SETTINGS, EngineWorld, at, world
from tests.unit.simulated_world import A100, GIB, H100, host
from tests.unit.test_reservations import reservation

TWO, FOUR = host(1, A100, A100), host(1, *[A100] * 4)


def told(there: EngineWorld, number: int = 1) -> tuple[str, str]:
    there.decide()
    return str(there.reasons[number].code), there.reasons[number].detail


def test_how_much_is_free_and_needed() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), (1, 11), (1, 12))
    there.submit(1, gpus=2, models=("A100",))
    assert told(there) == (
        "no_capacity",
        "1 of 4 A100 GPUs that fit are free; 2 are needed on one host, with its CPU and memory.",
    )
    assert there.reasons[1].figures == {"free": 1, "total": 4, "wanted": 2}


@pytest.mark.parametrize(
    ("asked", "needed"),
    [
        ({"gpus": 1}, "1 is needed on one host, with 1000 milli-cores of CPU (500 at most are free)"),
        ({"milli": 460}, "0.46 of one is needed on one host, with 1000 milli-cores of CPU (500 at most are free)"),
        ({"gpus": 4}, "4 are needed on one host, with its CPU and memory"),
    ],
)
def test_what_is_needed_and_what_of_it_is_short(asked: dict[str, int], needed: str) -> None:
    there = world(FOUR)
    there.run(10, (1, 10), cpu_milli=63_500)
    there.submit(1, **asked)
    code, detail = told(there)
    assert code == "no_capacity"
    assert detail == f"3 of 4 GPUs that fit are free; {needed}."


def test_free_devices_that_are_scattered() -> None:
    there = world(TWO, host(2, A100, A100))
    there.run(10, (1, 10))
    there.run(11, (2, 20))
    there.submit(1, gpus=2)
    assert told(there)[1] == "2 of 4 GPUs that fit are free; 2 are needed on one host, where 1 at most are free."


def test_a_gang_needs_hosts_alike() -> None:
    there = world(TWO, host(2, H100, H100))
    there.submit(1, gpus=2, nodes=2)
    assert told(there)[1] == (
        "4 of 4 GPUs that fit are free; 2 are needed on each of 2 hosts, all of one model, with its CPU and memory."
    )


def test_a_gang_needs_hosts_that_are_close() -> None:
    there = world(replace(TWO, labels={"rack": "a"}), replace(host(2, A100, A100), labels={"rack": "b"}))
    there.submit(1, gpus=2, nodes=2, within="rack", models=("A100",))
    assert told(there)[1] == (
        "4 of 4 A100 GPUs that fit are free; "
        "2 are needed on each of 2 hosts with the same rack, with its CPU and memory."
    )


def test_too_few_hosts_for_a_gang() -> None:
    there = world(TWO, replace(host(2, A100, A100), why_not="it is draining"))
    there.submit(1, gpus=2, nodes=2)
    assert told(there) == (
        "host_not_available",
        "Only 1 host takes new work now that could run a part of it; it needs 2.",
    )


def test_others_of_its_set_are_in_the_way() -> None:
    there = world(TWO)
    there.run(10, (1, 10), customer_id=1, apart="replica")
    there.submit(1, apart="replica")
    assert told(there)[1] == (
        "1 of 2 GPUs that fit are free; "
        "1 is needed on one host, apart from others of replica, which are on 1 host with room for it."
    )


def test_a_device_that_another_customer_shares_is_not_free() -> None:
    there = world(TWO)
    there.run(10, (1, 10), milli=300, customer_id=2)
    there.run(11, (1, 11), milli=900, customer_id=1)
    there.submit(1, milli=200)
    assert told(there)[1].startswith("0 of 2 GPUs that fit are free; 0.2 of one is needed")


def test_what_is_free_and_kept_for_others() -> None:
    there = world(FOUR)
    there.run(10, (1, 10), limit_s=100)
    there.submit(1, gpus=4)
    there.submit(2, customer_id=2)
    assert told(there, 2) == ("behind_others", "3 of 4 GPUs that fit are free, and kept for who came before.")


def test_why_hosts_take_no_new_work() -> None:
    there = world(*(replace(host(number, A100), why_not=f"it is out {number}") for number in range(1, 6)))
    there.submit(1)
    assert told(there) == (
        "host_not_available",
        "No host that could run it takes new work now (h1: it is out 1; h2: it is out 2; h3: it is out 3 and 2 more).",
    )


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        ({"models": ("B200",)}, "No host has a healthy B200 now."),
        ({"gpus": 3}, "No host has 3 healthy GPU now."),
        ({"cpu_milli": 65_000}, "No host has 65000 milli-cores of CPU."),
        ({"gpu_memory_bytes": 81 * GIB}, f"No GPU has {81 * GIB} bytes of memory."),
        ({"selectors": (Selector("eu", Operator.EXISTS),)}, "No host has the labels that it asks for."),
        (
            {"selectors": (Selector("zone", Operator.EXISTS),), "models": ("A100",)},
            "No host has all that it asks for.",
        ),
    ],
)
def test_what_no_host_has(asked: dict[str, object], detail: str) -> None:
    there = world(TWO, replace(host(2, H100), labels={"zone": "b"}))
    there.submit(1, **asked)
    assert told(there) == ("host_not_available", detail)


def test_the_host_that_its_volume_lives_on() -> None:
    there = world(TWO, host(2, A100))
    there.run(10, (1, 10))
    there.submit(1, gpus=2, bound_host_id=1)
    assert told(there) == (
        "bound_host_busy",
        "Its volume lives on host h1, where 1 of 2 GPUs that fit are free; "
        "2 are needed on one host, with its CPU and memory.",
    )
    there.set_host(replace(TWO, why_not="it is unreachable"))
    assert told(there) == (
        "bound_host_unavailable",
        "Its volume lives on host h1, which takes no new work now: it is unreachable.",
    )
    there.set_host(host(1, A100))
    assert told(there)[1] == "Its volume lives on host h1, which does not have the GPUs, CPU or memory asked for."
    there.drop_host(1)
    assert told(there)[1] == "The host that its volume lives on has left."


def test_what_its_capacity_group_may_use() -> None:
    there = world(FOUR, groups=[CapacityGroup("red", None, 2000)])
    there.run(10, (1, 10), group="red")
    there.submit(1, gpus=2, group="red")
    there.submit(2, gpus=3, group="red")
    there.submit(3, gpus=3)
    there.decide()
    assert {number: reason.detail for number, reason in there.reasons.items()} == {
        1: "Capacity group red may use 1 more GPUs now, with what it may borrow; 2 are needed.",
        2: "Capacity group red may never use more than 2 GPUs; 3 are needed.",
        3: "2 GPUs that are guaranteed to nobody are left; 3 are needed.",
    }
    assert there.reasons[1].figures == {"available_milli": 1000, "wanted_milli": 2000, "most_milli": 2000}
    assert set(there.codes().values()) == {"capacity_group"}


def test_what_its_group_may_use_is_kept_for_who_has_aged() -> None:
    there = world(
        FOUR,
        groups=[CapacityGroup("red", None, 2000)],
        settings=replace(SETTINGS, ageing_step_s=60),
    )
    there.run(10, (1, 10), group="red")
    there.submit(1, gpus=2, group="red")
    there.pass_time(61)
    there.submit(2, group="red", customer_id=2)
    assert told(there, 2) == ("capacity_group", "What its capacity group may use now is kept for who came before.")
    there.gone(10)
    assert there.starts() == [1]


def test_the_place_in_the_queue_counts_those_who_could_have_the_same_devices() -> None:
    there = world(TWO, host(2, H100))
    there.run(10, (1, 10), (1, 11))
    there.run(11, (2, 20))
    for number, models in ((1, ("A100",)), (2, ("H100",)), (3, ()), (4, ("A100",)), (5, ("NVIDIA A100",))):
        there.submit(number, models=models)
    there.decide()
    assert {number: reason.position for number, reason in there.reasons.items()} == {1: 1, 2: 1, 3: 3, 4: 3, 5: 4}


def test_those_behind_the_first_of_a_line_have_a_pace() -> None:
    """Every 60 s one has started, so the second in place may 120 s after the first; the first has its own time."""
    there = world(TWO)
    there.run(10, (1, 10), limit_s=1000)
    for number in range(1, 6):
        there.submit(number, limit_s=50)
    for number in (1, 2, 3):
        assert there.starts() == [number]
        there.pass_time(60)
        if number < 3:
            there.gone(number)
    there.decide()
    assert (there.reasons[4].eta, there.reasons[4].eta_basis) == (at(181), "estimate"), "the third is late"
    assert (there.reasons[5].eta, there.reasons[5].eta_basis) == (at(181 + 120 + 59), "history"), "to the minute"


def test_nothing_is_said_of_a_time_that_nobody_knows() -> None:
    there = world(TWO)
    there.submit(1, gpus=3)
    there.decide()
    assert (there.reasons[1].eta, there.reasons[1].eta_basis) == (None, "unknown")


def test_what_has_not_changed_is_not_told_again() -> None:
    there = world(TWO)
    there.run(10, (1, 10), (1, 11), limit_s=100)
    for number in (1, 2):
        there.submit(number)
    assert set(there.decide().waits) == {1, 2}
    assert there.decide().waits == {}
    there.cancel(1)
    assert set(there.decide().waits) == {2}


def test_in_a_long_queue_places_are_told_anew_only_now_and_then() -> None:
    there = world(TWO)
    there.run(1000, (1, 10), (1, 11), limit_s=10_000)
    for number in range(1, 301):
        there.submit(number)
    assert len(there.decide().waits) == 300
    there.pass_time(1)
    there.submit(301)
    assert set(there.decide().waits) == {301}
    assert there.reasons[301].position == 301
    there.cancel(1)
    told_now = set(there.decide().waits)
    assert 300 not in told_now
    there.pass_time(SETTINGS.refresh_s)
    there.decide()
    assert {number: there.reasons[number].position for number in (2, 300, 301)} == {2: 1, 300: 299, 301: 300}


def test_in_a_long_queue_another_reason_is_told_at_once() -> None:
    there = world(TWO)
    there.run(1000, (1, 10), (1, 11), limit_s=10_000)
    for number in range(1, 301):
        there.submit(number)
    there.decide()
    there.pass_time(1)
    there.set_customer(CustomerView(1, limits=Limits(gpus=0)))
    assert len(there.decide().waits) == 300
    assert set(there.codes().values()) == {"quota"}


def test_each_code_is_known() -> None:
    """Programs rely on them: one that goes, or has another name, is a change of the interface."""
    assert {str(code) for code in Code} == {
        "no_capacity", "behind_others", "reserved", "bound_host_busy", "bound_host_unavailable", "host_not_available",
        "capacity_group", "quota", "balance", "no_price", "reservation", "preempting", "not_reached",
    }  # fmt: skip


def test_a_reason_of_a_reservation_is_one_of_others_too() -> None:
    there = world(TWO, reservations=[reservation(100, 200, 10, 11)])
    there.submit(1)
    assert told(there) == (
        "reserved",
        "2 of 2 GPUs that fit are free, and kept for an advance reservation that begins before it would have ended.",
    )
    there.submit(2, limit_s=80, customer_id=2)
    assert there.starts() == [2]
