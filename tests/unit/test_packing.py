"""Placing shapes on hosts: what each policy prefers."""

import numpy as np
import pytest

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.packing.rooms import Rooms
from scheduler.packing.scoring import (
    BestFit,
    Fragmentation,
    PackingPolicy,
    Scoring,
    Spread,
    make_scoring,
    unusable,
)
from scheduler.packing.shape import Shape
from scheduler.packing.workload import Workload
from scheduler.views import DeviceView, HostView, Part

Host = tuple[int, int, list[int]]
Spot = tuple[int, tuple[int, ...]]  # host, and the columns of devices

TENANT = 1


def host(*gpus: int, cpu: int = 96_000, memory: int = 1000) -> Host:
    """`gpus` are free thousandths."""
    return cpu, memory, list(gpus)


def rooms(*hosts: Host) -> Rooms:
    cpu, memory, gpus = zip(*hosts, strict=True)
    return Rooms(np.array(cpu), np.array(memory), np.array(gpus))


def cluster_of(scoring: Scoring, *hosts: Host) -> Cluster:
    """What is not free of a device, the tenant has."""
    cluster = Cluster(scoring)
    for host_id, (cpu, memory, gpus) in enumerate(hosts):
        devices = tuple(DeviceView(10 * host_id + column, "", "T4", 0) for column in range(len(gpus)))
        cluster.set_host(HostView(host_id, "", "", cpu, memory, devices))
        taken = [(10 * host_id + column, 1000 - free) for column, free in enumerate(gpus) if free < 1000]
        cluster.hold(host_id, TENANT, Demand(Shape(0, 0)), [Part(host_id, tuple(taken))])
    return cluster


def find(cluster: Cluster, shape: Shape) -> Spot | None:
    parts = cluster.find(Demand(shape), TENANT)
    return None if parts is None else (parts[0].host_id, tuple(gpu_id % 10 for gpu_id, _ in parts[0].devices))


@pytest.mark.parametrize(
    ("shape", "spot"),
    [
        (Shape(1000, 1, 2), (2, (0, 2))),
        (Shape(1000, 1, 1), (2, (0,))),
        (Shape(1000, 1, 1, milli=300), (0, (1,))),
        (Shape(1000, 1, 1, milli=600), (2, (0,))),
        (Shape(1000, 1, 3), None),
        (Shape(97_000, 1), None),
        (Shape(1000, 1001), None),
    ],
)
def test_best_fit_takes_what_leaves_least_and_never_what_is_not_there(shape: Shape, spot: Spot | None) -> None:
    cluster = cluster_of(BestFit(), host(400, 300, 0, 0), host(1000, 1000, 1000, 1000, cpu=10), host(1000, 500, 1000))
    assert find(cluster, shape) == spot


@pytest.mark.parametrize("policy", [policy for policy in PackingPolicy if policy is not PackingPolicy.RANDOM])
def test_a_share_joins_others_of_its_customer_whatever_the_policy(policy: PackingPolicy) -> None:
    cluster = cluster_of(make_scoring(policy), host(1000, 1000), host(400, 800, cpu=9000))
    assert find(cluster, Shape(1, 1, 1, milli=700)) == (1, (1,))


def test_spread_takes_the_emptiest() -> None:
    cluster = cluster_of(Spread(), host(1000, 0), host(1000, 1000))
    assert find(cluster, Shape(1, 1, 1)) == (1, (0,))
    assert find(cluster, Shape(1, 1, 1, milli=10)) == (1, (0,))


def test_fragmentation_is_what_the_usual_request_cannot_use() -> None:
    workload = Workload()
    for shape in [Shape(1000, 1, 1, milli=500), Shape(1000, 1, 2)]:
        workload.observe(shape)
    found = unusable(rooms(host(1000, 400), host(1000, 1000), host(1000, 1000, cpu=1)), workload.mix)
    # Half the requests lose the 400 of the first host, half all of it; nobody can use the third, for want of CPU.
    assert found.tolist() == [(400 + 1400) / 2, 0, 2000]


def test_fragmentation_completes_a_shared_device_rather_than_break_a_whole_one() -> None:
    cluster = cluster_of(Fragmentation(joins_shared=False), host(1000, 1000), host(500, 500))
    for _ in range(3):
        cluster.observe(Shape(1000, 1, 2))
        cluster.observe(Shape(1000, 1, 1, milli=500))
    assert find(cluster, Shape(1000, 1, 1, milli=500)) == (1, (0,))


def test_fragmentation_leaves_no_gpu_without_cpu() -> None:
    """Ten cores a GPU is the usual: a request with few GPUs and much CPU goes where CPU is left over."""
    cluster = cluster_of(Fragmentation(), host(1000, 1000, 1000, cpu=40_000), host(1000, 1000, 1000, cpu=80_000))
    for _ in range(3):
        cluster.observe(Shape(10_000, 1, 1))
    assert find(cluster, Shape(30_000, 1, 1)) == (1, (0,))
    assert find(cluster, Shape(30_000, 1)) == (1, ())


@pytest.mark.parametrize("wrong", [(-1, 0, 0, 1000), (0, 0, 2, 500), (0, 0, 1, 0), (0, 0, 1, 1001)])
def test_impossible_shapes(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="Shape"):
        Shape(*wrong)


def test_the_mix_does_not_depend_on_the_order() -> None:
    shapes = [Shape(n * 1000, 1, 1 + n % 3) for n in range(20)]
    mixes = []
    for order in (shapes, shapes[::-1]):
        workload = Workload()
        for shape in order:
            workload.observe(shape)
        mixes.append(workload.mix)
    assert mixes[0].cpu.tolist() == mixes[1].cpu.tolist()
    assert mixes[0].requests.tolist() == mixes[1].requests.tolist()
