"""Requests without GPUs: where they go, what they wait for, and what they take from nobody."""

from dataclasses import replace

import pytest

from scheduler.demand import Demand
from scheduler.packing.scoring import PackingPolicy
from scheduler.packing.shape import Shape
from scheduler.views import CapacityGroup, IdleGroup, Part
from tests.unit.engine_world import EngineWorld, world
from tests.unit.simulated_world import A100, GIB, host
from tests.unit.small_clusters import NOTHING, TWO, cluster_of, fill, hosts, place
from tests.unit.test_reservations import reservation

SMALL = Demand(Shape(1000, GIB))
RED, BLUE = CapacityGroup("red", "all", 1000), CapacityGroup("blue", "all", 1000)


def told(there: EngineWorld, number: int = 1) -> tuple[str, str]:
    there.decide()
    return str(there.reasons[number].code), there.reasons[number].detail


# Where they go


@pytest.mark.parametrize("policy", [PackingPolicy.FRAGMENTATION, PackingPolicy.BEST_FIT, PackingPolicy.SPREAD])
def test_hosts_without_gpus_come_first_while_there_is_room(policy: PackingPolicy) -> None:
    cluster = cluster_of(host(1, A100), host(2, cpu_milli=2000), host(3, A100, cpu_milli=1000), policy=policy)
    fill(cluster, 9, 10)
    found = [hosts(place(cluster, number, SMALL)) for number in (1, 2)]
    assert found == [[2], [2]]
    assert hosts(cluster.find(SMALL, 1)) in ([1], [3]), "then any will do"
    assert hosts(cluster.find(replace(SMALL, nodes=2), 1)) == [1, 3]


def test_a_gang_needs_enough_hosts_without_gpus() -> None:
    cluster = cluster_of(host(1, A100), host(2), host(3))
    assert hosts(cluster.find(replace(SMALL, nodes=2), 1)) == [2, 3]
    assert hosts(cluster.find(replace(SMALL, nodes=3), 1)) == [1, 2, 3]


def test_an_idle_group_beside_gpus_does_not_attract() -> None:
    cluster = cluster_of(host(1, A100), host(2), host(3))
    cluster.set_idle_groups([IdleGroup(f"g{number}", number, frozenset(), 1000, GIB) for number in (1, 3)])
    assert place(cluster, 1, SMALL) == (Part(3, ()),), "it is handed on"
    cluster.hold(2, 1, Demand(Shape(64_000, GIB)), [Part(2, ())])
    cluster.hold(3, 1, Demand(Shape(64_000, GIB)), [Part(3, ())])
    assert cluster.find(SMALL, 1) == (Part(1, ()),)


def test_no_gpu_is_left_without_the_cpu_that_gpus_usually_take() -> None:
    """Although the host whose CPU is short is the fuller one."""
    short, plenty = host(1, A100, A100, cpu_milli=2000), host(2, A100, A100, cpu_milli=9000)
    cluster = cluster_of(short, plenty, policy=PackingPolicy.FRAGMENTATION)
    cluster.observe(TWO)
    cluster.observe(Shape(1000, GIB, 1))
    assert hosts(cluster.find(SMALL, 1)) == [2]
    fill(cluster, 1, 10, 11, demand=NOTHING)
    assert hosts(cluster.find(SMALL, 1)) == [1], "no GPU is free there"


# What they wait for


def test_cpu_and_memory_are_what_is_short() -> None:
    there = world(host(1, A100, cpu_milli=4000), host(2, cpu_milli=2000))
    there.run(10, on=[1], cpu_milli=1500)
    there.submit(1, gpus=0, cpu_milli=3000)
    code, detail = told(there)
    assert (code, detail) == (
        "no_capacity",
        f"2500 milli-cores of CPU and {511 * GIB} bytes of memory are free, on one host at most; "
        f"3000 and {GIB} are needed on one host.",
    )
    assert there.reasons[1].figures == {
        "free_cpu_milli": 2500,
        "wanted_cpu_milli": 3000,
        "free_memory_bytes": 511 * GIB,
        "wanted_memory_bytes": GIB,
    }
    assert (there.reasons[1].position, there.reasons[1].eta_basis) == (1, "estimate")
    there.gone(10)
    assert there.starts() == [1]


def test_they_queue_among_themselves() -> None:
    there = world(host(1, A100, cpu_milli=2000))
    there.run(10, (1, 10), cpu_milli=2000)
    for number, gpus in ((1, 1), (2, 0), (3, 1), (4, 0)):
        there.submit(number, gpus=gpus)
    there.decide()
    assert {number: reason.position for number, reason in there.reasons.items()} == {1: 1, 2: 1, 3: 2, 4: 2}


def test_a_place_that_is_kept_stays_where_less_is_in_the_way() -> None:
    there = world(host(1, cpu_milli=4000), host(2, cpu_milli=4000))
    there.run(10, on=[1], cpu_milli=3500, since_s=100)
    there.run(11, on=[2], cpu_milli=4000, since_s=300)
    there.submit(1, gpus=0, cpu_milli=4000)
    there.submit(2, gpus=0, cpu_milli=500)
    assert there.starts() == [], "what is free on host 1 is kept"
    there.gone(11)
    there.run(12, on=[2], cpu_milli=4000, since_s=1)  # it seems to end sooner
    assert there.starts() == []
    there.gone(12)
    there.run(13, on=[2], cpu_milli=3400, since_s=1)
    assert there.starts() == [2] and there.held[2].parts[0].host_id == 1, "less is in the way on host 2"


# Who gives way


def test_the_least_work_gives_way_weighed_by_its_cpu() -> None:
    there = world(host(1, A100, A100, cpu_milli=16_000))
    there.run(10, on=[1], cpu_milli=8000, preemptible=True, since_s=100)  # as much as a GPU for as long
    there.run(11, (1, 10), cpu_milli=8000, preemptible=True, since_s=99)
    there.submit(1, gpus=0, cpu_milli=8000, priority=1)
    assert there.evicts() == [11]


def test_one_for_a_gpu_clears_the_cpu_that_it_lacks() -> None:
    there = world(host(1, A100, A100, cpu_milli=8000))
    there.run(10, on=[1], cpu_milli=7000, preemptible=True, since_s=100)
    there.run(11, (1, 10), cpu_milli=1000, preemptible=True, since_s=1000)
    there.submit(1, gpus=1, cpu_milli=2000, priority=1)
    assert there.evicts() == [10]


def test_victims_are_found_wherever_they_are() -> None:
    there = world(*(host(number, A100, cpu_milli=1000) for number in range(1, 120)))
    for number in range(1, 120):
        there.run(number, on=[number], cpu_milli=1000, preemptible=number == 117)
    there.submit(200, gpus=0, cpu_milli=1000, priority=1)
    assert there.evicts() == [117]


def test_groups_own_gpus_only() -> None:
    """So one that asks for none reclaims nothing, and waits for no share of its group."""
    there = world(host(1, A100, A100, cpu_milli=2000), groups=(RED, BLUE))
    there.run(10, (1, 10), (1, 11), cpu_milli=2000, group="red")
    there.submit(1, gpus=0, group="blue")
    assert there.evicts() == [] and there.codes() == {1: "no_capacity"}
    there.submit(2, gpus=1, group="blue")
    assert there.evicts() == [10], "that is lent"


def test_a_group_that_has_lent_all_of_its_gpus_may_use_cpu() -> None:
    there = world(host(1, A100, A100), groups=(RED, BLUE))
    there.run(10, (1, 10), (1, 11), group="red")
    there.submit(1, gpus=0, group="blue")
    there.submit(2, gpus=0, group="red")
    assert sorted(there.starts()) == [1, 2]


def test_cpu_is_cleared_for_a_reservation() -> None:
    there = world(host(1, A100, A100, cpu_milli=4000))
    there.run(10, on=[1], cpu_milli=2000, preemptible=True, since_s=10)
    there.run(11, on=[1], cpu_milli=1000, preemptible=True, since_s=5)
    there.reserve(reservation(20, 60, 10, cpu_milli=2000))
    assert there.evicts() == []
    there.pass_time(11)
    assert there.evicts() == [11], "the youngest, and no more than it takes"
