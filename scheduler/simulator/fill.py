"""The packing experiment of the FGD paper: fill a cluster with a trace's tasks in random order, none of which leaves.

Tasks come one at a time, each placed at once or refused for good. Reported is how much of the cluster's GPUs is
given out when the tasks so far, refused ones included, have asked for all of it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.scoring import PackingPolicy, make_scoring
from scheduler.simulator.openb import Node, Task
from scheduler.views import DeviceView, HostView

DEMAND = 1.3  # of the cluster's GPUs, asked for in the end
_CUSTOMER_ID = 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """One arrival: the task's name, made unique, and its node and devices, None where it was refused."""

    name: str
    task: Task
    node: str | None
    devices: tuple[int, ...] = ()


@dataclass(slots=True)
class FillReport:
    """`curve` has a point per arrival: GPUs asked for so far and GPUs given out, in percent of all."""

    policy: PackingPolicy
    seed: int
    gpus: int
    assignments: list[Assignment] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)

    @property
    def allocated_percent(self) -> float:
        """When the requests have reached all of the cluster's GPUs."""
        return next(given for asked, given in self.curve if asked >= 100.0)

    @property
    def refused(self) -> int:
        return sum(assignment.node is None for assignment in self.assignments)


class Filling:
    """A cluster being filled, all by one customer, so that any two shares may meet on a device."""

    def __init__(self, nodes: Sequence[Node], policy: PackingPolicy, seed: int) -> None:
        self._cluster = Cluster(make_scoring(policy, seed=seed))
        self._nodes = nodes
        self._width = max((node.gpus for node in nodes), default=0) or 1
        for number, node in enumerate(nodes):
            self._cluster.set_host(_host(number, node, self._width))
        self._arrived = 0

    def arrive(self, name: str, task: Task) -> Assignment:
        """Place a task, if it fits anywhere."""
        demand = Demand(task.shape, models=tuple(sorted(task.models)))
        self._cluster.observe(task.shape)
        parts = self._cluster.find(demand, _CUSTOMER_ID)
        self._arrived += 1
        if parts is None:
            return Assignment(name, task, None)
        self._cluster.hold(self._arrived, _CUSTOMER_ID, demand, parts)
        indices = tuple(gpu_id % self._width for gpu_id, _ in parts[0].devices)
        return Assignment(name, task, self._nodes[parts[0].host_id].name, indices)


def _host(number: int, node: Node, width: int) -> HostView:
    devices = tuple(DeviceView(number * width + index, "", node.model, 0) for index in range(node.gpus))
    return HostView(number, node.name, node.name, node.cpu_milli, node.memory_bytes, devices)


def fill(nodes: Sequence[Node], tasks: Sequence[Task], *, policy: PackingPolicy, seed: int) -> FillReport:
    """Run the experiment; the same arguments give the same report."""
    gpus = sum(node.gpus for node in nodes)
    report = FillReport(policy, seed, gpus)
    filling = Filling(nodes, policy, seed)
    asked = given = 0
    for name, task in arrivals(tasks, enough_milli=round(DEMAND * gpus * MILLI_PER_GPU), seed=seed):
        assignment = filling.arrive(name, task)
        report.assignments.append(assignment)
        asked += task.shape.gpu_milli
        given += task.shape.gpu_milli if assignment.node is not None else 0
        report.curve.append((asked / gpus / 10, given / gpus / 10))
    return report


def arrivals(tasks: Sequence[Task], *, enough_milli: int, seed: int) -> Iterator[tuple[str, Task]]:
    """Each task once in an order shuffled by the seed, then any of them again, until they ask for enough."""
    order = random.Random(seed)
    asked = 0
    shuffled = list(tasks)
    order.shuffle(shuffled)
    repeats: Counter[str] = Counter()
    for task in shuffled:
        if asked >= enough_milli:
            return
        asked += task.shape.gpu_milli
        yield task.name, task
    while asked < enough_milli:
        task = order.choice(tasks)
        repeats[task.name] += 1
        asked += task.shape.gpu_milli
        yield f"{task.name}#{repeats[task.name]}", task
