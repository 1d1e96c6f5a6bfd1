"""The packing experiment of the FGD paper: fill a cluster with a trace's tasks in random order, none of which leaves.

Tasks come one at a time, each placed at once or refused for good. Reported is how much of the cluster's GPUs is
given out when the tasks so far, refused ones included, have asked for all of it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.loop import Scheduler
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.scoring import PackingPolicy, make_scoring
from scheduler.simulated_database import SimulatedDatabase
from scheduler.simulated_store import MemoryStore
from scheduler.simulator.openb import Node, Task, as_host, demand_of
from scheduler.simulator.timer_fabric import NoFabric
from scheduler.simulator.trace import moment
from scheduler.simulator.virtual import at_once
from scheduler.states import AllocationState, EndReason
from scheduler.views import HostView, Request

DEMAND = 1.3  # of the cluster's GPUs, asked for in the end
_CUSTOMER = 1


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
    """A cluster being filled, by the loop: one cycle decides on each arrival."""

    def __init__(self, nodes: Sequence[Node], policy: PackingPolicy, seed: int) -> None:
        self._database = SimulatedDatabase()
        self._arrived = 0
        for number, node in enumerate(nodes, start=1):
            self._database.add_host(as_host(node, number))
        store = MemoryStore(self._database, self._now)
        # What is refused is refused for good: no place is looked for or kept for later.
        engine = Engine(EngineSettings(kept_places=0), partial(make_scoring, policy, seed=seed))
        self._scheduler = Scheduler(store, NoFabric(), engine, self._now, at_once)

    def arrive(self, task: Task) -> tuple[HostView, tuple[int, ...]] | None:
        """Place a task, if it fits anywhere: its host, and the indexes of the devices."""
        self._arrived += 1
        demand, uid = demand_of(task), f"a{self._arrived}"
        self._database.submit(Request(self._arrived, uid, _CUSTOMER, _CUSTOMER, demand, self._now()))
        self._scheduler.cycle()
        allocation = self._database.allocations[self._arrived]
        if allocation.state is AllocationState.QUEUED:
            self._database.request_end(self._arrived, EndReason.CANCELLED)
            return None
        (part,) = allocation.parts
        host = self._database.hosts[part.host_id].view
        chosen = {gpu_id for gpu_id, _ in part.devices}
        return host, tuple(index for index, device in enumerate(host.devices) if device.gpu_id in chosen)

    def _now(self) -> datetime:
        return moment(self._arrived)


def fill(nodes: Sequence[Node], tasks: Sequence[Task], *, policy: PackingPolicy, seed: int) -> FillReport:
    """Run the experiment; the same arguments give the same report."""
    gpus = sum(node.gpus for node in nodes)
    report = FillReport(policy, seed, gpus)
    filling = Filling(nodes, policy, seed)
    asked = given = 0
    for name, task in arrivals(tasks, enough_milli=round(DEMAND * gpus * MILLI_PER_GPU), seed=seed):
        found = filling.arrive(task)
        asked += task.shape.gpu_milli
        if found is None:
            report.assignments.append(Assignment(name, task, None))
        else:
            host, devices = found
            given += task.shape.gpu_milli
            report.assignments.append(Assignment(name, task, host.name, devices))
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
