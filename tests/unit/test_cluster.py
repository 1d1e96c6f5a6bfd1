"""What the picture of the cluster says is free, and where it finds a place; `test_cluster_properties` mixes it all."""

from dataclasses import replace

import pytest

from scheduler.cluster import conditions, scores
from scheduler.cluster.cluster import Totals
from scheduler.cluster.conditions import Condition
from scheduler.cluster.devices import pick
from scheduler.cluster.pools import NOBODY
from scheduler.demand import Demand, Operator, Selector
from scheduler.packing.scoring import PackingPolicy
from scheduler.packing.shape import Shape
from scheduler.views import HostView, IdleGroup, Part
from tests.unit.small_clusters import (
    A100,
    GIB,
    H100,
    HALF,
    NOTHING,
    ONE,
    TWO,
    cluster_of,
    fill,
    gpus,
    host,
    hosts,
    place,
)

# One host


def test_devices_are_of_one_of_the_models_asked_for_and_never_mixed() -> None:
    cluster = cluster_of(host(1, A100, H100, A100, H100))
    assert gpus(cluster.find(Demand(TWO, models=("T4", "A100")), 1)) == [10, 12]
    assert gpus(cluster.find(Demand(TWO, models=("H100",)), 1)) == [11, 13]
    assert cluster.find(Demand(Shape(1, 1, 3)), 1) is None
    assert not cluster.could_ever(Demand(Shape(1, 1, 3)))


def test_a_device_is_shared_inside_one_customer_only() -> None:
    cluster = cluster_of(host(1, H100, H100))
    share = Demand(HALF)
    assert place(cluster, 1, share) == (Part(1, ((10, 500),)),)
    assert gpus(place(cluster, 2, share, customer_id=2)) == [11]
    assert gpus(place(cluster, 3, share)) == [10]
    assert cluster.find(share, 1) is None, "half of 11 is free, and belongs to another"
    cluster.release(2)
    assert gpus(cluster.find(share, 1)) == [11]


def test_a_device_in_part_use_is_not_whole_even_for_its_customer() -> None:
    cluster = cluster_of(host(1, H100))
    place(cluster, 1, Demand(HALF))
    assert cluster.find(Demand(ONE), 1) is None


def test_cpu_and_memory_are_the_hosts_whatever_the_model() -> None:
    cluster = cluster_of(host(1, H100, A100, cpu_milli=3000))
    place(cluster, 1, Demand(Shape(2000, 512 * GIB - 1, 1), models=("H100",)))
    assert cluster.find(Demand(Shape(1001, 1, 1), models=("A100",)), 1) is None
    assert cluster.find(Demand(Shape(1000, 2, 1), models=("A100",)), 1) is None
    assert gpus(cluster.find(Demand(Shape(1000, 1, 1), models=("A100",)), 1)) == [11]


@pytest.mark.parametrize("policy", [PackingPolicy.FRAGMENTATION, PackingPolicy.BEST_FIT])
def test_what_needs_no_gpu_goes_where_none_is_free(policy: PackingPolicy) -> None:
    cluster = cluster_of(host(1, H100, A100), host(2, A100), host(3), policy=policy)
    cluster.observe(TWO)
    assert place(cluster, 1, Demand(ONE, bound_host_id=2)) == (Part(2, ((20, 1000),)),)
    cluster.drop_host(3)
    assert cluster.find(Demand(Shape(1000, GIB), models=("H100",), gpu_memory_bytes=999 * GIB), 1) == (Part(2, ()),)
    assert hosts(cluster.find(Demand(Shape(1000, GIB), nodes=2), 1)) == [1, 2]
    assert cluster.find(Demand(Shape(1000, GIB), nodes=3), 1) is None, "a host of two models is one host"


def test_an_idle_group_of_exactly_its_size_wins_and_others_keep_off() -> None:
    cluster = cluster_of(host(1, *[H100] * 4), host(2, H100))
    cluster.set_idle_groups([IdleGroup("b", 1, frozenset({10}), 1000, GIB), IdleGroup("a", 1, frozenset({11}), 5, 5)])
    assert gpus(cluster.find(Demand(ONE), 1)) == [10], "though host 2 is the better fit"
    assert gpus(cluster.find(Demand(Shape(2000, GIB, 2)), 1)) == [12, 13]
    assert gpus(cluster.find(Demand(Shape(2000, GIB, 3)), 1)) == [10, 12, 13]
    fill(cluster, 1, 10)
    assert gpus(cluster.find(Demand(ONE), 1)) == [20]
    cluster.hold(1, 9, Demand(Shape(63_500, GIB)), [Part(1, ())])
    assert gpus(cluster.find(Demand(ONE), 1)) == [20], "the group's devices are free, and its CPU is not"
    cluster.release(1)
    cluster.set_host(host(1, *[H100] * 4, why_not="draining"))
    assert gpus(cluster.find(Demand(ONE), 1)) == [20]


QUADS = (0b1110, 0b1101, 0b1011, 0b0111, 0b11100000, 0b11010000, 0b10110000, 0b01110000)
PAIRS = (0b10, 0b01, 0b1000, 0b0100)


@pytest.mark.parametrize(
    ("links", "free", "count", "shunned", "picked"),
    [
        ((0,) * 4, 0b1111, 2, 0, (0, 1)),
        ((0,) * 4, 0b1111, 2, 0b0011, (2, 3)),
        ((0,) * 4, 0b1111, 3, 0b0001, (1, 2, 3)),
        ((0,) * 4, 0b1111, 0, 0, ()),
        (PAIRS, 0b1110, 2, 0b1000, (2, 3)),  # joined, though one is shunned
        (PAIRS, 0b1110, 1, 0, (1,)),  # breaks no pair
        (PAIRS, 0b1111, 3, 0, (0, 1, 2)),
        ((*PAIRS, 0, 0), 0b111111, 4, 0, (0, 1, 2, 3)),
        ((*PAIRS, 0, 0), 0b111111, 3, 0, (0, 1, 4)),
        ((*[0] * 14, 1 << 15, 1 << 14), 0xFFFF, 6, 0b10, (0, 2, 3, 4, 14, 15)),  # too many sets to look at each
        (QUADS, 0b11110011, 2, 0, (0, 1)),  # a pair that is left, not half of a quad
        (QUADS, 0b11110111, 4, 0, (4, 5, 6, 7)),
        (QUADS, 0b01111111, 3, 0, (4, 5, 6)),
        (QUADS, 0b11111111, 5, 0, (0, 1, 2, 3, 4)),
        (QUADS, 0b11111111, 1, 0b00001111, (4,)),
    ],
)
def test_devices_that_nvlink_joins_stay_together(
    links: tuple[int, ...], free: int, count: int, shunned: int, picked: tuple[int, ...]
) -> None:
    assert pick(links, free, count, shunned) == picked


def test_links_are_those_between_devices_that_are_there() -> None:
    cluster = cluster_of(host(1, H100, H100, H100, H100, links=[{0, 3}, {1, 2}]))
    assert gpus(cluster.find(Demand(TWO), 1)) == [10, 13]
    assert gpus(cluster.find(Demand(ONE), 1)) == [10]
    fill(cluster, 1, 12)
    assert gpus(cluster.find(Demand(ONE), 1)) == [11]


# Conditions and figures


def described(host_id: int) -> HostView:
    return host(host_id, H100, H100, labels={"region": "eu", "slots": "4"}, driver=(550, 54), cuda=(12, 4))


@pytest.mark.parametrize(
    ("demand", "condition"),
    [
        (Demand(ONE, models=("T4",)), Condition.MODEL),
        (Demand(ONE, gpu_memory_bytes=81 * GIB), Condition.MEMORY),
        (Demand(ONE, selectors=(Selector("region", Operator.IN, ("us",)),)), Condition.SELECTOR),
        (Demand(ONE, selectors=(Selector("slots", Operator.GREATER, ("4",)),)), Condition.SELECTOR),
        (Demand(ONE, driver=(550, 54, 1)), Condition.DRIVER),
        (Demand(ONE, cuda=(12, 5)), Condition.CUDA),
        (Demand(ONE, bound_host_id=9), Condition.BOUND_HOST),
        (Demand(Shape(1, 1, 3)), Condition.COUNT),
        (Demand(Shape(64_001, 1)), Condition.CPU),
        (Demand(Shape(1, 513 * GIB)), Condition.MEMORY_BYTES),
    ],
)
def test_a_condition_that_no_host_meets_is_named(demand: Demand, condition: Condition) -> None:
    cluster = cluster_of(described(1), described(2))
    assert cluster.find(demand, 1) is None
    assert not cluster.could_ever(demand)
    assert cluster.shortage(demand, 1).excluding is condition
    assert cluster.hosts_for(demand, schedulable=False) == ()


def test_conditions_that_are_met() -> None:
    selectors = (Selector("region", Operator.IN, ("eu",)), Selector("slots", Operator.LESS, ("5",)))
    demand = Demand(
        ONE, models=("H100",), gpu_memory_bytes=80 * GIB, selectors=selectors, driver=(550, 54), cuda=(12, 4)
    )
    cluster = cluster_of(host(1, H100), described(2))
    assert hosts(cluster.find(demand, 1)) == [2]
    assert cluster.hosts_for(demand) == (2,)
    assert cluster.models(demand) == (H100,)
    cluster.set_host(replace(described(2), labels={"region": "us", "slots": "4"}))
    assert cluster.find(demand, 1) is None
    assert cluster.shortage(demand, 1).excluding is Condition.SELECTOR


def test_no_condition_alone_is_to_blame() -> None:
    cluster = cluster_of(host(1, H100), host(2, A100, labels={"region": "eu"}))
    demand = Demand(ONE, models=("H100",), selectors=(Selector("region", Operator.EXISTS),))
    shortage = cluster.shortage(demand, 1)
    assert (shortage.hosts, shortage.excluding) == (0, None)


def test_figures_are_of_the_hosts_that_could_take_it() -> None:
    cluster = cluster_of(
        host(1, *[H100] * 4), host(2, *[H100] * 4), host(3, *[H100] * 4, why_not="lost"), host(4, *[A100] * 4)
    )
    fill(cluster, 1, 10, 11, 12, 20)
    cluster.hold(2, 1, Demand(Shape(63_500, GIB)), [Part(2, ())])
    shortage = cluster.shortage(Demand(TWO, models=("H100",)), 1)
    assert (shortage.hosts, shortage.schedulable) == (3, 2)
    assert (shortage.gpus, shortage.free_gpus, shortage.most_free) == (8, 4, 3)
    assert (shortage.with_gpus, shortage.with_room) == (1, 0), "host 2 has GPUs, and too little CPU"
    assert (shortage.free_cpu_milli, shortage.free_memory_bytes) == (500, 511 * GIB)


def test_hosts_that_take_no_new_work_count_as_possible_only_if_one_asks() -> None:
    cluster = cluster_of(host(1, H100, why_not="draining"), host(2, A100))
    demand = Demand(ONE, models=("H100",))
    assert cluster.find(demand, 1) is None
    assert cluster.could_ever(demand)
    assert not cluster.could_ever(demand, schedulable=True)
    assert (cluster.hosts_for(demand), cluster.hosts_for(demand, schedulable=False)) == ((), (1,))


def test_totals_are_of_hosts_that_take_new_work_each_counted_once() -> None:
    cluster = cluster_of(host(1, H100, A100), host(2, cpu_milli=1000), host(3, H100, why_not="lost"))
    fill(cluster, 1, 10)
    assert cluster.totals == Totals(2000, 65_000, 1024 * GIB)
    cluster.drop_host(2)
    assert cluster.totals == Totals(2000, 64_000, 512 * GIB)


# Hosts that change, and claims


def test_what_is_held_outlasts_the_host_and_its_devices() -> None:
    cluster = cluster_of()
    fill(cluster, 1, 10, 20)
    cluster.set_host(host(1, H100, H100))
    assert gpus(cluster.find(Demand(ONE), 1)) == [11]
    cluster.drop_host(1)
    assert cluster.find(Demand(ONE), 1) is None
    cluster.set_host(host(1, A100, H100, A100))
    assert gpus(cluster.find(Demand(ONE, models=("A100",)), 1)) == [12]
    cluster.release(1)
    assert gpus(cluster.find(Demand(TWO, models=("A100",)), 1)) == [10, 12]


def test_a_host_that_shrinks_below_what_is_held_has_nothing_free() -> None:
    cluster = cluster_of(host(1, H100, H100))
    place(cluster, 1, Demand(Shape(60_000, GIB, 1)))
    cluster.set_host(host(1, H100, H100, cpu_milli=32_000))
    assert cluster.find(Demand(Shape(1, 1, 1)), 1) is None
    assert gpus(cluster.find(Demand(Shape(0, 1, 1)), 1)) == [11]
    assert cluster.rooms(1, Demand(ONE))[0].cpu_milli == -28_000


def test_what_is_claimed_twice_is_not_less_than_nothing() -> None:
    """Or its host would look fuller than it is."""
    cluster = cluster_of(host(1, *[H100] * 4), host(2, H100, H100))
    fill(cluster, 1, 10, 13)
    cluster.set_aside("later", 9, NOTHING, [Part(1, ((10, 1000),))])
    cluster.hold(2, 9, NOTHING, [Part(2, ((20, 500),))])
    assert gpus(cluster.find(Demand(ONE), 1)) == [21]
    cluster.set_aside("other", 8, NOTHING, [Part(2, ((20, 100),))])
    assert cluster.shortage(Demand(Shape(0, 0, 1, milli=100)), 1).free_gpus == 3, "none of the device that two share"


def test_an_allocation_held_again_has_what_was_said_last() -> None:
    cluster = cluster_of(host(1, H100, H100))
    fill(cluster, 1, 10)
    fill(cluster, 1, 11)
    assert gpus(cluster.find(Demand(ONE), 1)) == [10]
    assert (cluster.parts_on(1), cluster.parts_of(1)) == ((1,), (Part(1, ((11, 1000),)),))
    cluster.release(1)
    cluster.release(1)
    assert (cluster.parts_on(1), cluster.parts_of(1)) == ((), ())
    with pytest.raises(ValueError, match="one host"):
        cluster.hold(2, 1, Demand(ONE), [Part(1, ()), Part(1, ())])


def test_what_is_set_aside_is_not_found_and_belongs_to_nobody_on_the_host() -> None:
    cluster = cluster_of(host(1, H100, H100))
    fill(cluster, 1, 10)
    cluster.set_aside(("head", 1), 1, Demand(HALF), [Part(1, ((10, 500), (11, 500)))])
    assert cluster.find(Demand(ONE), 1) is None
    assert cluster.find(Demand(HALF), 2) is None
    assert gpus(cluster.find(Demand(HALF), 1)) == [11], "the rest of a device is its customer's"
    assert cluster.parts_on(1) == (1,)
    free = [(each.free_milli, each.owner) for each in cluster.rooms(1, Demand(ONE))[0].devices]
    assert free == [(-500, -1), (500, 1)]
    cluster.release(1)
    assert cluster.find(Demand(ONE), 1) is None
    cluster.clear_aside(("head", 1))
    assert gpus(cluster.find(Demand(TWO), 1)) == [10, 11]
    assert cluster.rooms(1, Demand(ONE))[0].devices[0].owner == NOBODY


def test_a_trial_leaves_no_trace() -> None:
    cluster = cluster_of(host(1, H100, H100), host(2, H100, H100))
    fill(cluster, 1, 10, 11, demand=Demand(ONE, apart="x"))
    cluster.set_aside("kept", 1, Demand(ONE), [Part(2, ((20, 1000),))])
    before = cluster.find(Demand(ONE), 1)
    with cluster.trial():
        cluster.release(1)
        assert gpus(cluster.find(Demand(TWO), 1)) == [10, 11]
        with cluster.trial():
            cluster.clear_aside("kept")
            fill(cluster, 2, 10)
            assert gpus(cluster.find(Demand(TWO), 1)) == [20, 21]
        assert cluster.find(Demand(TWO, bound_host_id=2), 1) is None
        assert gpus(cluster.find(Demand(TWO), 1)) == [10, 11]
        with pytest.raises(ValueError, match="trial"):
            cluster.set_host(host(3))
        with pytest.raises(ValueError, match="trial"):
            cluster.drop_host(1)
    assert (cluster.find(Demand(ONE), 1), gpus(before)) == (before, [21])
    assert cluster.parts_on(1) == (1,)


def test_an_error_ends_a_trial_too() -> None:
    cluster = cluster_of(host(1, H100))
    with pytest.raises(RuntimeError), cluster.trial():
        fill(cluster, 1, 10)
        raise RuntimeError
    assert gpus(cluster.find(Demand(ONE), 1)) == [10]
    cluster.set_host(host(2, H100))


def test_what_is_remembered_is_bounded_and_nothing_else_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Demand(Shape(cpu, GIB, 1, milli=500), models=models) for cpu in range(20) for models in ((), ("H100",))]
    remembering = cluster_of(host(1, H100, H100), host(2, A100))
    monkeypatch.setattr(scores, "_MAX_KNOWN", 0)
    monkeypatch.setattr(conditions, "_MAX_KNOWN", 1)
    forgetful = cluster_of(host(1, H100, H100), host(2, A100))
    for cluster in (remembering, forgetful):
        place(cluster, 1, asked[0])
    assert [forgetful.find(demand, 1) for demand in asked] == [remembering.find(demand, 1) for demand in asked]
    assert len(forgetful._scores._known) == 2
    assert len(forgetful._matching._known) == 1
