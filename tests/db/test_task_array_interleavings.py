"""Whatever workers, hosts and the network do, and in whatever order: each element runs to its end once, never twice at
once."""

import random
from dataclasses import dataclass, field

import pytest

from api.allocations.tables import Allocation
from api.db import Database
from api.errors import Conflict
from api.settings import Settings
from api.tasks.tables import Task
from scheduler.host_protocol import ElementResult, ElementRun, ElementStart
from scheduler.states import AllocationState, EndReason, TaskState
from tests.db.task_world import TaskWorld
from tests.db.test_task_arrays import ArrayWorld, result

ELEMENTS = 40
MOST_STEPS = 400


@dataclass(slots=True)
class Worker:
    """What its host knows: all that it was given, how many of these have run, and what it has not told."""

    allocation: Allocation
    given: list[ElementRun] = field(default_factory=list)
    ran: int = 0
    untold: list[ElementResult] = field(default_factory=list)
    over: bool = False


class Interleaving:
    def __init__(self, world: ArrayWorld, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.task: Task = world.one(array=f"0-{ELEMENTS - 1}%3", retry={"max": 100}, preemptible=True)
        self.workers: dict[int, Worker] = {}
        self.finished: list[int] = []  # indices whose end the platform has taken

    def run(self) -> None:
        for _ in range(MOST_STEPS):
            if self.world.state(self.task) is TaskState.SUCCEEDED:
                return
            self._meet()
            if not self.workers:
                continue
            worker = self.random.choice(list(self.workers.values()))
            self.random.choices([self._exchange, self._work, self._lose], [6, 6, 1])[0](worker)
            self._check()
        raise AssertionError("it did not end")

    def _meet(self) -> None:
        """Those that run; sometimes others are placed."""
        if not self.workers or self.random.random() < 0.1:
            self.world.pass_pauses(self.task)
            self.world.place()
        active = [each for each in self.world.allocations(self.task) if each.state == AllocationState.ACTIVE]
        for allocation in active:
            if allocation.id not in self.workers:
                self.world.order(allocation)
        known = {allocation.id: Worker(allocation) for allocation in active}
        self.workers = {key: self.workers.get(key, worker) for key, worker in known.items()}

    def _exchange(self, worker: Worker) -> None:
        """Ask and tell; either way may be lost, and what was told may be told again."""
        started = tuple(ElementStart(run.place, 1, 0) for run in worker.given[: worker.ran])
        told, take = tuple(worker.untold), self.random.randint(0, 5)
        answer = self.world.exchange(
            worker.allocation, have=len(worker.given), take=take, started=started, results=told
        )
        if self.random.random() < 0.3:
            return  # the answer is lost
        if self.random.random() < 0.7:
            worker.untold = []
        worker.given += answer.runs
        if answer.over and not worker.untold and worker.ran == len(worker.given):
            self.world.end(worker.allocation)

    def _work(self, worker: Worker) -> None:
        if worker.ran < len(worker.given):
            worker.untold.append(result(worker.given[worker.ran].place))
            worker.ran += 1

    def _lose(self, worker: Worker) -> None:
        reason = self.random.choice([EndReason.HOST_LOST, EndReason.PREEMPTED])
        self.world.request_end(worker.allocation, reason)
        self.world.finish()
        with pytest.raises(Conflict):
            self.world.exchange(worker.allocation, have=0, take=5, results=(result(0, code=1),))

    def _check(self) -> None:
        array, rows = self.world.array(self.task), self.world.elements(self.task)
        ended = [index for index, row in rows.items() if row.state == TaskState.SUCCEEDED]
        assert array.succeeded == len(ended) and array.failed == 0
        assert set(self.finished) <= set(ended), "what has ended stays so"
        self.finished = ended
        held = [index for index, row in rows.items() if row.state in (TaskState.STARTING, TaskState.RUNNING)]
        pending = ELEMENTS - len(ended) - len(held)
        counted = sum(
            int(last or first) - int(first) + 1
            for first, _, last in (part.partition("-") for part in array.pending.split(",") if part)
        )
        assert counted == pending, "each is pending, with one worker, or has ended"


@pytest.mark.parametrize("seed", range(2))
def test_each_element_ends_once(database: Database, settings: Settings, seed: int) -> None:
    made = TaskWorld.make(database, settings)
    world = ArrayWorld(made.world, made.host)
    interleaving = Interleaving(world, seed)
    interleaving.run()
    assert world.states(interleaving.task) == {"succeeded": ELEMENTS}
