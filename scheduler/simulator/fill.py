"""The packing experiment of the FGD paper: fill a cluster with a trace's tasks in random order, none of which leaves.

Tasks come one at a time, each placed at once or refused for good. Reported is how much of the cluster's GPUs is
given out when the tasks so far, refused ones included, have asked for all of it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.money import MILLI_PER_GPU
from scheduler.packing.placer import Placer, Spot
from scheduler.packing.rooms import Mask, Rooms
from scheduler.packing.scoring import PackingPolicy, Scale, make_scoring
from scheduler.simulator.openb import Node, Task

DEMAND = 1.3  # of the cluster's GPUs, asked for in the end


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
    """A cluster being filled."""

    def __init__(self, nodes: Sequence[Node], policy: PackingPolicy, seed: int) -> None:
        self._nodes = nodes
        rooms = Rooms.of([(node.cpu_milli, node.memory_bytes, [MILLI_PER_GPU] * node.gpus) for node in nodes])
        self._placer = Placer(rooms, make_scoring(policy, seed=seed), Scale.of(rooms))
        self._models = np.array([node.model for node in nodes])
        self._allowed: dict[frozenset[str], Mask] = {}

    def arrive(self, task: Task) -> Spot | None:
        """Place a task, if it fits anywhere."""
        self._placer.observe(task.shape)
        spot = self._placer.find(task.shape, self._mask(task.models))
        if spot is not None:
            self._placer.take(task.shape, spot)
        return spot

    def _mask(self, models: frozenset[str]) -> Mask | None:
        if not models:
            return None
        if models not in self._allowed:
            self._allowed[models] = np.isin(self._models, sorted(models))
        return self._allowed[models]


def fill(nodes: Sequence[Node], tasks: Sequence[Task], *, policy: PackingPolicy, seed: int) -> FillReport:
    """Run the experiment; the same arguments give the same report."""
    gpus = sum(node.gpus for node in nodes)
    report = FillReport(policy, seed, gpus)
    filling = Filling(nodes, policy, seed)
    asked = given = 0
    for name, task in arrivals(tasks, enough_milli=round(DEMAND * gpus * MILLI_PER_GPU), seed=seed):
        spot = filling.arrive(task)
        asked += task.shape.gpu_milli
        if spot is None:
            report.assignments.append(Assignment(name, task, None))
        else:
            given += task.shape.gpu_milli
            report.assignments.append(Assignment(name, task, nodes[spot.row].name, spot.devices))
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
