"""Simulated hosts and requests, as the tests of the loop need them."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from scheduler.demand import Demand
from scheduler.effects import Result
from scheduler.loop import Cycle, Scheduler
from scheduler.packing.shape import Shape
from scheduler.plan import Decider
from scheduler.simulated_database import SimulatedDatabase
from scheduler.simulated_fabric import Fault, Machine, MemoryFabric
from scheduler.simulated_store import MemoryStore
from scheduler.views import DeviceView, HostView, Request

GIB = 2**30
START = datetime(2026, 1, 1, tzinfo=UTC)
A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"


def host(host_id: int, *models: str, cpu_milli: int = 64_000) -> HostView:
    """One with a device of each of `models`; device ids are 10 * host id + index."""
    devices = tuple(
        DeviceView(10 * host_id + index, f"GPU-{host_id}-{index}", model, 80 * GIB)
        for index, model in enumerate(models)
    )
    return HostView(host_id, f"h{host_id}", f"h{host_id}", cpu_milli, 512 * GIB, devices)


def request(
    number: int,
    *,
    queued_at: datetime,
    customer_id: int = 1,
    workspace_id: int = 0,
    gpus: int = 1,
    milli: int = 1000,
    nodes: int = 1,
    cpu_milli: int = 1000,
    models: tuple[str, ...] = (),
    bound_host_id: int | None = None,
    **others: Any,  # Any: further fields of Request
) -> Request:
    demand = Demand(Shape(cpu_milli, GIB, gpus, milli), nodes, models, bound_host_id=bound_host_id)
    return Request(number, f"a{number}", customer_id, workspace_id, demand, queued_at, **others)


class DatabaseError(Exception):
    """The connection was lost: before the transaction, or after its commit and before the answer."""


class FlakyStore(MemoryStore):
    """The first of `faults` strikes the next call; FAILS and ANSWER_LOST are as the fabric's."""

    faults: deque[Fault]

    def __getattribute__(self, name: str) -> Any:  # Any: the store's methods
        found = super().__getattribute__(name)
        if name not in _CALLS:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            fault = self.faults.popleft() if self.faults else Fault.NONE
            if fault is Fault.FAILS:
                raise DatabaseError
            answer = found(*arguments, **options)
            if fault is Fault.ANSWER_LOST:
                raise DatabaseError
            return answer

        return call


_CALLS = frozenset({"changes", "admit", "evict", "record_waits", "record", "placing", "releasing", "groups_to_drop"})


class World:
    """A database, a fabric, and a scheduler whose effects are run by hand. `lead` makes another scheduler lead."""

    def __init__(self, decider: Callable[[], Decider], *hosts: HostView) -> None:
        self.now = START
        self.decider = decider
        self.database = SimulatedDatabase()
        self.fabric = MemoryFabric()
        self.effects: list[Callable[[], None]] = []
        self.database_faults: deque[Fault] = deque()
        for view in hosts:
            self.database.add_host(view)
            self.fabric.machines[view.host_uid] = Machine(view.cpu_milli, view.memory_bytes)
        self.lead()

    def lead(self) -> None:
        """A new leader takes over. What the one before had not begun to do is never done."""
        self.effects.clear()
        self.store = FlakyStore(self.database, lambda: self.now)
        self.store.faults = self.database_faults
        self.scheduler = Scheduler(
            self.store, self.fabric, self.decider(), clock=lambda: self.now, spawn=self.effects.append
        )

    def submit(self, number: int, **options: Any) -> None:  # Any: see `request`
        queued_at = self.now + timedelta(milliseconds=number)
        self.database.submit(request(number, **{"queued_at": queued_at, **options}))

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.fabric.now_ms += round(1000 * seconds)

    def run_effects(self) -> None:
        while self.effects:
            self.effects.pop(0)()

    def work(self) -> Cycle:
        """What is to be done at once, with every effect carried out and recorded."""
        cycle = self.scheduler.cycle()
        while self.effects or cycle.unfinished:
            self.run_effects()
            cycle = self.scheduler.cycle()
        return cycle

    def unrecorded(self) -> list[Result]:
        return self.scheduler.effects.results(1000)
