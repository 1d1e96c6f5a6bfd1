"""Clusters of a few hosts, for tests of what is found on them."""

from collections.abc import Sequence
from dataclasses import replace

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.packing.scoring import PackingPolicy, make_scoring
from scheduler.packing.shape import Shape
from scheduler.views import DeviceView, HostView, Part

GIB = 2**30
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
ONE, TWO = Shape(1000, GIB, 1), Shape(1000, GIB, 2)
HALF = Shape(1000, GIB, 1, milli=500)
NOTHING = Demand(Shape(0, 0))


def host(
    host_id: int, *models: str, cpu_milli: int = 64_000, links: Sequence[set[int]] = (), **more: object
) -> HostView:
    """GPU ids are the host's times ten, plus the index; `links` are cliques of indices."""
    peers = {
        index: frozenset(10 * host_id + peer for clique in links if index in clique for peer in clique - {index})
        for index in range(len(models))
    }
    devices = tuple(
        DeviceView(10 * host_id + index, f"GPU-{host_id}-{index}", model, 80 * GIB, peers[index])
        for index, model in enumerate(models)
    )
    view = HostView(host_id, f"u{host_id}", f"h{host_id}", cpu_milli, 512 * GIB, devices)
    return replace(view, **more)  # type: ignore[arg-type]  # the fields of the view by their names


def cluster_of(*hosts: HostView, policy: PackingPolicy = PackingPolicy.BEST_FIT) -> Cluster:
    cluster = Cluster(make_scoring(policy))
    for each in hosts:
        cluster.set_host(each)
    return cluster


def gpus(parts: tuple[Part, ...] | None) -> list[int] | None:
    return None if parts is None else [gpu_id for part in parts for gpu_id, _ in part.devices]


def hosts(parts: tuple[Part, ...] | None) -> list[int] | None:
    return None if parts is None else [part.host_id for part in parts]


def place(cluster: Cluster, number: int, demand: Demand, customer_id: int = 1) -> tuple[Part, ...]:
    parts = cluster.find(demand, customer_id)
    assert parts is not None
    cluster.hold(number, customer_id, demand, parts)
    return parts


def fill(cluster: Cluster, number: int, *gpu_ids: int, demand: Demand = NOTHING) -> None:
    """Hold these devices."""
    by_host: dict[int, list[tuple[int, int]]] = {}
    for gpu_id in gpu_ids:
        by_host.setdefault(gpu_id // 10, []).append((gpu_id, 1000))
    cluster.hold(number, 9, demand, [Part(host_id, tuple(devices)) for host_id, devices in by_host.items()])
