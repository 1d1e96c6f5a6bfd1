"""Arrays: elements handed to workers, tried again, given back and counted."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select

from api.allocations.tables import Allocation
from api.db import Database
from api.errors import Conflict, NotFound
from api.settings import Settings
from api.tasks import elements
from api.tasks.tables import Task, TaskArray, TaskElement
from scheduler.host_protocol import (
    AttemptPhase,
    ElementResult,
    ElementRun,
    ElementsAsked,
    ElementsGiven,
    ElementStart,
)
from scheduler.states import AttemptEnd, EndReason, TaskState
from tests.db.task_world import TaskWorld, document


class ArrayWorld(TaskWorld):
    def allocations(self, task: Task) -> list[Allocation]:
        """Of its workers that have not ended."""
        with self.database.session() as session:
            query = select(Allocation).join(Task, Task.allocation_id == Allocation.id)
            query = query.where(Task.array_id == task.id, Task.ended_at.is_(None)).order_by(Allocation.id)
            return list(session.scalars(query))

    def workers(self, task: Task) -> list[Allocation]:
        """Its workers, all running."""
        self.settle()
        self.place()
        found = self.allocations(task)
        for allocation in found:
            self.order(allocation)
            self.report(allocation, AttemptPhase.RUNNING)
        self.settle()
        return found

    def exchange(self, allocation: Allocation, *, host: Any = None, **asked: Any) -> ElementsGiven:
        said = ElementsAsked(**{"have": 0, "take": 0, **asked})
        return self.database.transact(
            lambda session: elements.exchange(
                session,
                host_id=(host or self.host).id,
                allocation_uid=str(allocation.uid),
                generation=allocation.generation,
                asked=said,
            )
        )

    def take(self, allocation: Allocation, count: int, *, have: int = 0) -> list[int]:
        return [run.index for run in self.exchange(allocation, have=have, take=count).runs]

    def array(self, task: Task) -> TaskArray:
        with self.database.session() as session:
            return session.get_one(TaskArray, task.id)

    def elements(self, task: Task) -> dict[int, TaskElement]:
        with self.database.session() as session:
            rows = session.scalars(select(TaskElement).where(TaskElement.task_id == task.id))
            return {row.index: row for row in rows}

    def states(self, task: Task) -> Counter[str]:
        return Counter(row.state for row in self.elements(task).values())

    def pass_pauses(self, task: Task) -> None:
        with self.database.session() as session, session.begin():
            for row in session.scalars(select(TaskElement).where(TaskElement.due_at.is_not(None))):
                row.due_at = row.started_at
            session.get_one(TaskArray, task.id).rests_until = None
        self.pass_backoff(task)


def result(place: int, *, code: int = 0, end: str = "exited", signal: int | None = None) -> ElementResult:
    return ElementResult(place, end, None if signal else code, signal, 1, 2, 10 * place, 10 * place + 5)


@pytest.fixture
def world(database: Database, settings: Settings) -> ArrayWorld:
    made = TaskWorld.make(database, settings)
    return ArrayWorld(made.world, made.host)


def test_an_array_goes_its_way(world: ArrayWorld) -> None:
    task = world.one(array="0-9%2")
    assert world.elements(task) == {}, "one row until they start"
    first, second = world.workers(task)
    assert world.state(task) is TaskState.RUNNING
    assert world.exchange(first, take=3).runs == (ElementRun(0, 0, 1), ElementRun(1, 1, 1), ElementRun(2, 2, 1))
    assert world.take(second, 4) == [3, 4, 5, 6]
    answer = world.exchange(first, have=3, take=3, results=tuple(result(place) for place in range(3)))
    assert [run.index for run in answer.runs] == [7, 8, 9]
    assert world.take(second, 1, have=4) == []
    assert world.exchange(second, have=4, results=tuple(result(place) for place in range(4))).over
    world.end(second)
    assert world.state(task) is TaskState.RUNNING
    assert [each.id for each in world.allocations(task)] == [first.id]
    assert world.exchange(first, have=6, take=9, results=tuple(result(place) for place in range(3, 6))).over
    assert world.state(task) is TaskState.RUNNING, "until its workers are gone"
    world.end(first)
    done = world.task(task)
    assert (done.state, done.detail) == (TaskState.SUCCEEDED, "")
    assert world.states(task) == {"succeeded": 10}
    row = world.elements(task)[8]
    assert (row.log_from, row.log_to, row.exit_code, row.tries) == (40, 45, 0, 1)


def test_a_lost_answer_is_given_again_and_a_result_counts_once(world: ArrayWorld) -> None:
    task = world.one(array="0-9%1")
    (worker,) = world.workers(task)
    assert world.take(worker, 2) == [0, 1]
    assert world.take(worker, 2) == [0, 1], "the first answer was lost"
    assert world.take(worker, 3, have=1) == [1, 2, 3]
    for _ in range(2):
        world.exchange(worker, have=4, results=(result(0), result(1, code=1)))
    assert (world.array(task).succeeded, world.array(task).failed) == (1, 1)
    world.exchange(worker, have=4, results=(result(0, code=1), result(99), result(-1)))
    assert (world.array(task).succeeded, world.array(task).failed) == (1, 1)


def test_errors_are_tried_again_after_a_pause(world: ArrayWorld) -> None:
    task = world.one(array="0-1%1", retry={"max": 1, "on": ["error"], "backoff": "10m"})
    (worker,) = world.workers(task)
    assert world.take(worker, 2) == [0, 1]
    answer = world.exchange(worker, have=2, take=1, results=(result(0, code=3), result(1)))
    assert answer == ElementsGiven((), over=True), "what waits does not hold the devices"
    world.end(worker)
    assert world.allocations(task) == []
    waiting = world.task(task)
    assert waiting.due_at is not None and (waiting.due_at - waiting.created_at).total_seconds() > 590
    world.pass_pauses(task)
    (worker,) = world.workers(task)
    assert world.exchange(worker, take=2).runs == (ElementRun(0, 0, 2),)
    world.exchange(worker, have=1, results=(result(0, code=3),))
    world.end(worker)
    assert (world.state(task), world.task(task).detail) == (TaskState.FAILED, "1 of 2 elements failed.")
    assert {index: row.tries for index, row in world.elements(task).items()} == {0: 2, 1: 1}


def test_what_a_lost_host_had_goes_back(world: ArrayWorld) -> None:
    task = world.one(array="0-4%1", retry={"max": 1})
    (worker,) = world.workers(task)
    assert world.take(worker, 3) == [0, 1, 2]
    world.exchange(worker, have=3, results=(result(0),), started=(ElementStart(1, 5, 10),))
    world.request_end(worker, EndReason.HOST_LOST)
    world.finish()
    with pytest.raises(Conflict):
        world.exchange(worker, have=3, results=(result(1),))
    (worker,) = world.workers(task)
    assert [(run.index, run.number) for run in world.exchange(worker, take=9).runs] == [(1, 2), (2, 1), (3, 1), (4, 1)]
    world.exchange(worker, have=4, started=(ElementStart(0, 5, 0),))
    world.request_end(worker, EndReason.HOST_LOST)
    world.finish()
    assert world.elements(task)[1].state == TaskState.FAILED
    assert world.elements(task)[1].end == AttemptEnd.HOST_LOST
    (worker,) = world.workers(task)
    assert world.take(worker, 9) == [2, 3, 4]


def test_giving_way_costs_no_try(world: ArrayWorld) -> None:
    task = world.one(array="0-2%1", preemptible=True, retry={"max": 0})
    for number in range(3):
        (worker,) = world.workers(task)
        assert world.take(worker, 1) == [0], number
        world.exchange(worker, have=1, started=(ElementStart(0, 5, 0),))
        world.evict(worker)
        assert world.exchange(worker, have=1, take=1) == ElementsGiven((), over=True)
        world.settle()
        world.report(worker, end="exited", exit_code=0, notice="SIGTERM")
        world.finish()
        assert world.elements(task)[0].tries == 0
    assert world.state(task) is TaskState.RUNNING


def test_cancelling(world: ArrayWorld) -> None:
    waiting, running = world.one("waiting", array="0-9"), world.one("running", array="0-9%1")
    world.cancel(waiting)
    world.finish()
    assert world.state(waiting) is TaskState.CANCELLED
    (worker,) = world.workers(running)
    world.take(worker, 2)
    world.exchange(worker, have=2, started=(ElementStart(0, 5, 0),))
    world.cancel(running)
    world.settle()
    assert world.exchange(worker, have=2, take=2, results=(result(0),)).over
    world.report(worker, end="exited", exit_code=0, notice="SIGTERM")
    world.finish()
    assert world.state(running) is TaskState.CANCELLED
    assert world.states(running) == {"succeeded": 1, "cancelled": 1}


def test_workers_that_wait_go_when_nothing_is_left(world: ArrayWorld) -> None:
    task = world.one(array="0-2", resources={"gpus": 4})
    world.settle()
    world.place()
    first, *others = world.allocations(task)
    assert [each.state for each in (first, *others)] == ["active", "queued", "queued"]
    world.order(first)
    assert world.take(first, 3) == [0, 1, 2]
    world.finish()
    assert [each.id for each in world.allocations(task)] == [first.id]


def test_workers_that_fail_before_any_element_cost_their_lanes(world: ArrayWorld) -> None:
    task = world.one(array="0-9%2", setup="false")
    for allocation in world.workers(task):
        world.end(allocation, "setup_failed", exit_code=1)
    done = world.task(task)
    assert done.state == TaskState.FAILED
    assert done.detail == "10 of 10 elements did not run. Its setup failed: It ended with exit code 1."
    assert world.allocations(task) == []


def test_a_worker_that_dies_of_an_element_is_replaced(world: ArrayWorld) -> None:
    task = world.one(array="0-1%1")
    for _ in range(2):
        (worker,) = world.workers(task)
        (run,) = world.exchange(worker, take=1).runs
        world.exchange(worker, have=1, started=(ElementStart(0, 5, 0),))
        world.end(worker, exit_code=None, signal=9)
        assert world.elements(task)[run.index].state == TaskState.FAILED
    assert (world.state(task), world.task(task).detail) == (TaskState.FAILED, "2 of 2 elements failed.")


def test_what_depends_on_an_array(world: ArrayWorld) -> None:
    array, child, mourner = world.submit(
        document("many", array="0-1%1"),
        document("after", depends_on=["many"]),
        document("clean", array="0-3%1", depends_on=[{"task": "many", "condition": "failed"}]),
    )
    (worker,) = world.workers(array)
    world.exchange(worker, take=2)
    world.exchange(worker, have=2, results=(result(0), result(1, end="timed_out", signal=15)))
    world.end(worker)
    assert [world.state(task) for task in (array, child, mourner)] == [
        TaskState.FAILED, TaskState.CANCELLED, TaskState.QUEUED,
    ]  # fmt: skip
    assert len(world.workers(mourner)) == 1


def test_only_the_workers_own_host_and_generation_count(world: ArrayWorld) -> None:
    single, task = world.one("single"), world.one(array="0-3%1")
    (worker,) = world.workers(task)
    with pytest.raises(NotFound):
        world.exchange(worker, take=1, host=world.world.host("h2"))
    with pytest.raises(NotFound):
        world.exchange(world.allocation(single), take=1)
    worker.generation += 1
    with pytest.raises(Conflict):
        world.exchange(worker, take=1)


def test_workers_that_end_well_without_any_element_are_not_made_for_ever(world: ArrayWorld) -> None:
    task = world.one(array="0-1%1", retry={"max": 1})
    for _ in range(2):
        (worker,) = world.workers(task)
        world.end(worker)
        world.pass_pauses(task)
    assert world.state(task) is TaskState.FAILED
    assert world.task(task).detail.endswith("It ended without having run any element.")
