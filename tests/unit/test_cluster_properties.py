"""The cluster against a slow, obvious picture of the same thing, through arbitrary histories."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import gpu_model
from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand, Operator, Selector
from scheduler.packing.scoring import PackingPolicy, make_scoring
from scheduler.packing.shape import Shape
from scheduler.views import DeviceView, HostView, Part

MODELS = ("NVIDIA H100 80GB", "NVIDIA A100-SXM4-40GB", "Tesla T4")
POLICIES = [policy for policy in PackingPolicy if policy is not PackingPolicy.RANDOM]
SHAPES = [
    *(Shape(1000, 1, 1, milli=milli) for milli in (110, 470, 810)),
    *(Shape(2000, 2, gpus) for gpus in (1, 2, 3)),
    Shape(3000, 1),
]

models = st.lists(st.sampled_from(MODELS), max_size=4).map(lambda found: tuple(sorted(found)))
labels = st.fixed_dictionaries({"zone": st.sampled_from("ab")}, optional={"rack": st.sampled_from("xyz")})
host_views = st.builds(
    lambda host_id, models, cpu, memory, why_not, labels, driver, images: HostView(
        host_id,
        "",
        "",
        cpu,
        memory,
        tuple(DeviceView(10 * host_id + index, "", model, 40 + index % 2) for index, model in enumerate(models)),
        why_not,
        labels,
        (driver,),
        images=images,
    ),
    st.integers(1, 5),
    models,
    st.integers(2000, 9000),
    st.integers(2, 9),
    st.sampled_from([None, None, None, "draining"]),
    labels,
    st.integers(1, 2),
    st.sampled_from([frozenset(), frozenset({"torch"})]),
)
demands = st.builds(
    Demand,
    st.sampled_from(SHAPES),
    nodes=st.sampled_from([1, 1, 1, 2, 3]),
    models=st.sampled_from([(), (), ("H100",), ("A100", "T4")]),
    gpu_memory_bytes=st.sampled_from([0, 0, 41]),
    selectors=st.sampled_from([(), (), (Selector("zone", Operator.IN, ("a",)),)]),
    driver=st.sampled_from([(), (), (2,)]),
    bound_host_id=st.sampled_from([None, None, None, 2]),
    apart=st.sampled_from([None, None, "replicas"]),
    within=st.sampled_from([None, "rack", "zone"]),
    image=st.sampled_from(["", "torch"]),
)
customers = st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("host"), host_views, st.none()),
    st.tuples(st.just("drop"), st.integers(1, 5), st.none()),
    st.tuples(st.just("place"), demands, customers),
    st.tuples(st.just("place"), demands, customers),
    st.tuples(st.just("aside"), demands, customers),
    st.tuples(st.just("release"), st.integers(0, 20), st.none()),
    st.tuples(st.just("trial"), demands, customers),
)


@dataclass
class Picture:
    """Hosts, and what is held or set aside: `(customer, demand, parts)` by number."""

    hosts: dict[int, HostView] = field(default_factory=dict)
    held: dict[int, tuple[int, Demand, tuple[Part, ...]]] = field(default_factory=dict)
    aside: dict[int, tuple[int, Demand, tuple[Part, ...]]] = field(default_factory=dict)

    def claims(self) -> list[tuple[int, Demand, tuple[Part, ...]]]:
        return [*self.held.values(), *self.aside.values()]

    def used(self, gpu_id: int) -> Counter[int]:
        """Thousandths by customer."""
        used: Counter[int] = Counter()
        for customer_id, _, parts in self.claims():
            used[customer_id] += sum(milli for part in parts for gpu, milli in part.devices if gpu == gpu_id)
        return +used

    def usable(self, host: HostView, model: str | None, demand: Demand, customer_id: int) -> list[int]:
        """The devices of the model that could take their share of the demand."""
        found = []
        for device in host.devices:
            used = self.used(device.gpu_id)
            mine = set(used) <= {customer_id}
            if device.model == model and mine and used.total() + demand.shape.milli <= 1000:
                found.append(device.gpu_id)
        return found

    def fits(self, host: HostView, model: str | None, demand: Demand, customer_id: int) -> bool:
        """One part, now. `model` is None for a request without GPUs."""
        there = [demand for _, demand, parts in self.claims() for part in parts if part.host_id == host.host_id]
        apart = any(
            customer == customer_id and other.apart == demand.apart and host.host_id in {each.host_id for each in parts}
            for customer, other, parts in self.claims()
        )
        shape = demand.shape
        return (
            host.schedulable
            and self.suits(host, model, demand)
            and not (demand.apart and apart)
            and sum(each.shape.cpu_milli for each in there) + shape.cpu_milli <= host.cpu_milli
            and sum(each.shape.memory_bytes for each in there) + shape.memory_bytes <= host.memory_bytes
            and (not shape.gpus or len(self.usable(host, model, demand, customer_id)) >= shape.gpus)
        )

    def suits(self, host: HostView, model: str | None, demand: Demand) -> bool:
        """As far as its conditions go."""
        return (
            demand.bound_host_id in (None, host.host_id)
            and all(selector.matches(host.labels) for selector in demand.selectors)
            and host.driver >= demand.driver
            and (model is None or not demand.models or any(gpu_model.matches(each, model) for each in demand.models))
            and all(each.memory_bytes >= demand.gpu_memory_bytes for each in host.devices if each.model == model)
        )

    def groups(self, demand: Demand, customer_id: int) -> list[tuple[str | None, set[int]]]:
        """Sets of hosts that take a part each, of one model, and in one place where the demand asks for that."""
        found = []
        for model in MODELS if demand.shape.gpus else (None,):
            fitting = [host for host in self.hosts.values() if self.fits(host, model, demand, customer_id)]
            level = demand.within if demand.nodes > 1 else None
            placed = [(host.labels.get(level) if level else "", host.host_id) for host in fitting]
            for _, members in groupby(sorted((place, each) for place, each in placed if place is not None), _first):
                found.append((model, {each for _, each in members}))
        return found


def _first(pair: tuple[str, int]) -> str:
    return pair[0]


def check(picture: Picture, demand: Demand, customer_id: int, parts: tuple[Part, ...] | None) -> None:
    groups = picture.groups(demand, customer_id)
    if parts is None:
        assert not any(len(members) >= demand.nodes for _, members in groups)
        return
    chosen = {part.host_id for part in parts}
    assert len(parts) == len(chosen) == demand.nodes
    model_of = {device.gpu_id: device.model for host in picture.hosts.values() for device in host.devices}
    given = {model_of[gpu_id] for part in parts for gpu_id, _ in part.devices}
    model = given.pop() if demand.shape.gpus else None
    assert not given
    assert any(model == each and chosen <= members for each, members in groups)
    for part in parts:
        gpus = [gpu_id for gpu_id, milli in part.devices if milli == demand.shape.milli]
        assert len(set(gpus)) == len(part.devices) == demand.shape.gpus
        assert set(gpus) <= set(picture.usable(picture.hosts[part.host_id], model, demand, customer_id))


def apply(cluster: Cluster, picture: Picture, number: int, step: tuple[str, object, int | None]) -> None:
    match step:
        case ("host", HostView() as view, _):
            cluster.set_host(view)
            picture.hosts[view.host_id] = view
        case ("drop", int(host_id), _):
            cluster.drop_host(host_id)
            picture.hosts.pop(host_id, None)
        case ("release", int(which), _):
            cluster.release(which)
            picture.held.pop(which, None)
            cluster.clear_aside(which)
            picture.aside.pop(which, None)
        case ("trial", Demand() as demand, int(customer_id)):
            with cluster.trial():
                _upset(cluster, picture, demand, customer_id)
        case (("place" | "aside") as verb, Demand() as demand, int(customer_id)):
            cluster.observe(demand.shape)
            parts = cluster.find(demand, customer_id)
            check(picture, demand, customer_id, parts)
            if parts is not None and verb == "place":
                cluster.hold(number, customer_id, demand, parts)
                picture.held[number] = customer_id, demand, parts
            elif parts is not None:
                cluster.set_aside(number, customer_id, demand, parts)
                picture.aside[number] = customer_id, demand, parts


def _upset(cluster: Cluster, picture: Picture, demand: Demand, customer_id: int) -> None:
    """Release what is held one by one, place what can be, and see that it is true in between as well."""
    then = replace(picture, held=dict(picture.held), aside=dict(picture.aside))
    for number in list(then.held):
        cluster.release(number)
        del then.held[number]
        parts = cluster.find(demand, customer_id)
        check(then, demand, customer_id, parts)
        if parts is not None:
            cluster.hold(1000 + number, customer_id, demand, parts)
            then.held[1000 + number] = customer_id, demand, parts


def rebuilt(picture: Picture, policy: PackingPolicy, demands: list[Demand], seed: int) -> Cluster:
    """The same in another order."""
    order = random.Random(seed)
    cluster = Cluster(make_scoring(policy))
    for demand in demands:
        cluster.observe(demand.shape)
    for host in order.sample(list(picture.hosts.values()), len(picture.hosts)):
        cluster.set_host(host)
    for number, (customer_id, demand, parts) in order.sample(list(picture.held.items()), len(picture.held)):
        cluster.hold(number, customer_id, demand, order.sample(parts, len(parts)))
    for number, (customer_id, demand, parts) in picture.aside.items():
        cluster.set_aside(number, customer_id, demand, parts)
    return cluster


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.lists(host_views, min_size=1, max_size=5),
    st.lists(steps, max_size=25),
    st.lists(st.tuples(demands, customers), min_size=1, max_size=4),
    st.integers(0, 100),
)
def test_after_any_history_it_finds_what_is_there_and_what_a_fresh_look_finds(
    policy: PackingPolicy,
    hosts: list[HostView],
    history: list[tuple[str, object, int | None]],
    asked: list[tuple[Demand, int]],
    seed: int,
) -> None:
    cluster, picture = Cluster(make_scoring(policy)), Picture()
    for number, step in enumerate([*(("host", view, None) for view in hosts), *history]):
        apply(cluster, picture, number, step)
    seen = [demand for verb, demand, _ in history if verb in ("place", "aside") and isinstance(demand, Demand)]
    fresh = rebuilt(picture, policy, seen, seed)
    for demand, customer_id in asked:
        parts = cluster.find(demand, customer_id)
        check(picture, demand, customer_id, parts)
        assert parts == fresh.find(demand, customer_id)
        assert cluster.could_ever(demand) or parts is None
        assert cluster.shortage(demand, 1) == fresh.shortage(demand, 1)
    assert cluster.totals == fresh.totals
