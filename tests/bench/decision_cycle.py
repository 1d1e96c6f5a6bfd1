"""Decision cycles of a large, full cluster where gangs arrive that others must give way to.

`python -m tests.bench.decision_cycle HOSTS QUEUED SEED` measures one cluster, in a process of its own, and prints JSON.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from scheduler.demand import Demand
from scheduler.engine.engine import Engine
from scheduler.loop import Scheduler
from scheduler.packing.shape import Shape
from scheduler.plan import Decider, Plan
from scheduler.ports import Changes, WaitReason
from scheduler.quota import Level
from scheduler.simulated_database import SimulatedDatabase
from scheduler.simulated_fabric import Machine, MemoryFabric
from scheduler.simulated_store import MemoryStore
from scheduler.simulator.trace import EPOCH
from scheduler.states import AllocationState, EndReason
from scheduler.views import DeviceView, HostView, Request
from tests.bench.figures import Figure, median

GPUS_PER_HOST = 8
USED = 0.9
STEPS = 40
CHURN = 20  # requests that come, and as many that end, in each step
GANG_NODES = 8
GANG_LIVES = 4  # steps
CUSTOMERS = 40
_GIB = 2**30
_SIZES = (1, 1, 1, 2, 2, 4, 8)
_MODELS = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3")
_PEAK_MB = 500
_P99_S = 1.0
_HOST_GROWTH = 12.0
_QUEUE_GROWTH = 3.0
_SEEDS = range(3)


@dataclass
class Timed:
    """A decider that notes how long it is busy."""

    decider: Decider
    busy_s: float = 0.0

    def update(self, changes: Changes, now: datetime) -> None:
        self._timed(lambda: self.decider.update(changes, now))

    def decide(self, now: datetime) -> Plan:
        return self._timed(lambda: self.decider.decide(now))

    def reasons(self) -> Mapping[int, WaitReason]:
        return self._timed(self.decider.reasons)

    def refused(self, reasons: Mapping[int, WaitReason]) -> None:
        self._timed(lambda: self.decider.refused(reasons))

    def _timed(self, act: Callable[[], Any]) -> Any:  # Any: whatever the method of the decider returns
        begun = time.perf_counter()
        try:
            return act()
        finally:
            self.busy_s += time.perf_counter() - begun


class _Fabric(MemoryFabric):
    """Does what is asked: what is held twice, the simulated database finds already."""

    def _check_room(self, *_: object) -> None:
        pass


@dataclass
class FullCluster:
    """A cluster with more requests than it has room for."""

    hosts: int
    queued: int
    seed: int
    now: datetime = EPOCH
    database: SimulatedDatabase = field(default_factory=SimulatedDatabase)
    decider: Timed = field(default_factory=lambda: Timed(Engine()))
    gangs: list[int] = field(default_factory=list)
    cycles_s: list[float] = field(default_factory=list)
    cycles_cpu_s: list[float] = field(default_factory=list)  # what other work on the machine does not lengthen
    decider_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        fabric = _Fabric()
        for number in range(1, self.hosts + 1):
            self.database.add_host(_host(number))
            fabric.machines[f"h{number}"] = Machine(0, 0)
        store = MemoryStore(self.database, lambda: self.now, idle_life=timedelta(0))
        self.scheduler = Scheduler(store, fabric, self.decider, lambda: self.now, lambda effect: effect())

    def fill(self) -> None:
        """Requests until the cluster is as full as it is to be, then those that have to wait, and let it settle."""
        target = round(USED * self.hosts * GPUS_PER_HOST)
        while (held := self._gpus()) < target:
            for _ in range(max(1, (target - held) // 4)):
                self.submit(size=1 if target - held < 64 else None)
            self.settle()
        for _ in range(self.queued):
            self.submit_waiting()
        self.settle()

    def _gpus(self) -> int:
        return sum(each.gpus for scope, each in self.database.held.items() if scope.level is Level.CUSTOMER)

    def submit(self, *, size: int | None = None) -> None:
        """One that runs, as long as there is room."""
        gpus = size or self.random.choice(_SIZES)
        models = (self.random.choice(_MODELS),) if self.random.random() < 0.5 else ()
        shape = Shape(4000 * gpus, 32 * _GIB * gpus, gpus)
        self._request(Demand(shape, models=models), priority=self.random.choice((0, 50, 100)), preemptible=True)

    def submit_waiting(self) -> None:
        """One that needs whole hosts, and may take them from nobody."""
        shape = Shape(self.random.choice((8_000, 32_000, 64_000, 96_000)), 256 * _GIB, GPUS_PER_HOST)
        demand = Demand(shape, nodes=self.random.choice((1, 2, 4)), models=(self.random.choice(_MODELS),))
        self._request(demand, priority=0)

    def submit_gang(self) -> None:
        shape = Shape(8 * 4000, 8 * 32 * _GIB, GPUS_PER_HOST)
        self.gangs.append(self._request(Demand(shape, nodes=GANG_NODES, models=_MODELS[:1]), priority=900))

    def step(self) -> None:
        """Some end, some come, and a gang arrives."""
        self.now += timedelta(seconds=1)
        active = [n for n, a in self.database.allocations.items() if a.state is AllocationState.ACTIVE]
        for number in self.random.sample(active, CHURN):
            self.database.request_end(number, EndReason.COMPLETED)
        for number in range(CHURN):
            self.submit_waiting() if number % 2 else self.submit()
        if len(self.gangs) > GANG_LIVES:
            self.database.request_end(self.gangs.pop(0), EndReason.COMPLETED)
        self.settle()
        self.submit_gang()
        self.settle()

    def settle(self) -> None:
        """Cycles until nothing more happens."""
        busy = True
        while busy:
            self.decider.busy_s, begun, begun_cpu = 0.0, time.perf_counter(), time.thread_time()
            cycle = self.scheduler.cycle()
            self.cycles_s.append(time.perf_counter() - begun)
            self.cycles_cpu_s.append(time.thread_time() - begun_cpu)
            self.decider_s.append(self.decider.busy_s)
            busy = cycle.unfinished or cycle.admitted > 0

    def _request(self, demand: Demand, *, priority: int, preemptible: bool = False) -> int:
        number = len(self.database.allocations) + 1
        customer_id = 1 + self.random.randrange(CUSTOMERS)
        self.database.submit(
            Request(
                number,
                f"a{number}",
                customer_id,
                customer_id,
                demand,
                self.now + timedelta(microseconds=number),
                priority=priority,
                preemptible=preemptible,
            )
        )
        return number


def _host(number: int) -> HostView:
    devices = tuple(
        DeviceView(number * GPUS_PER_HOST + index, f"GPU-{number}-{index}", _MODELS[number % 2], 80 * _GIB)
        for index in range(GPUS_PER_HOST)
    )
    labels = {"rack": f"r{number // 16}", "zone": f"z{number // 256}"}
    return HostView(number, f"h{number}", f"h{number}", 128_000, 1024 * _GIB, devices, labels=labels)


def measure(hosts: int, queued: int, seed: int) -> dict[str, Any]:  # Any: JSON
    cluster = FullCluster(hosts, queued, seed)
    cluster.fill()
    filled = len(cluster.cycles_s)
    for _ in range(STEPS):
        cluster.step()
    waiting = sum(a.state is AllocationState.QUEUED for a in cluster.database.allocations.values())
    return {
        "cycle_s": cluster.cycles_s[filled:],
        "cycle_cpu_s": cluster.cycles_cpu_s[filled:],
        "decider_s": cluster.decider_s[filled:],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "waiting": waiting,
        "gangs_placed": sum(
            cluster.database.allocations[gang].state is AllocationState.ACTIVE for gang in cluster.gangs
        ),
    }


def run() -> list[Figure]:
    small = [_in_a_process(100, 1_000, seed) for seed in _SEEDS]
    short = [_in_a_process(1_000, 1_000, seed) for seed in _SEEDS]
    full = [_in_a_process(1_000, 10_000, seed) for seed in _SEEDS]
    p99 = [statistics.quantiles(each["cycle_s"], n=100)[98] for each in full]
    peaks = [each["peak_mb"] for each in full]
    mean_small, mean_short, mean_full = (
        [statistics.fmean(each["cycle_s"]) for each in runs] for runs in (small, short, full)
    )
    return [
        Figure("cycle, 1,000 hosts, 10,000 queued, p99", median(p99), "s", _P99_S, True, {"seeds": p99}),
        Figure("cycle, 1,000 hosts, 10,000 queued, peak", median(peaks), "MB", _PEAK_MB, True, {"seeds": peaks}),
        _growth("cycle, 1,000 hosts over 100", mean_full, mean_small, _HOST_GROWTH),
        _growth("cycle, 10,000 queued over 1,000", mean_full, mean_short, _QUEUE_GROWTH),
    ]


def _growth(name: str, more: list[float], less: list[float], bound: float) -> Figure:
    return Figure(name, median(more) / median(less), "times", bound, True, {"more": more, "less": less})


def _in_a_process(hosts: int, queued: int, seed: int) -> dict[str, Any]:  # Any: JSON
    command = [sys.executable, "-m", "tests.bench.decision_cycle", str(hosts), str(queued), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*map(int, sys.argv[1:4]))))
