"""Tasks that are due together: led on in one transaction, each exactly once, and none kept by another."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, update

from api.db import Database
from api.quotas.tables import Quota
from api.settings import Settings
from api.tasks import settling
from api.tasks.tables import Task, TaskAttemptEvent, TaskEvent
from scheduler.host_protocol import AttemptOrder
from scheduler.states import TASK, AttemptEnd, AttemptState, EndReason, TaskState
from tests.db.task_world import TaskWorld, document
from tests.waiting import wait_for

SMALL = {"gpus": 0, "cpus": 1, "memory": "256MiB"}


@pytest.fixture
def world(database: Database, settings: Settings) -> TaskWorld:
    return TaskWorld.make(database, settings)


def done(world: TaskWorld, number: int, *, exit_code: int = 0, prefix: str = "t", **fields: Any) -> list[Task]:
    """So many tasks whose commands have ended and whose hosts have confirmed it: all due at once."""
    tasks = world.submit(*(document(f"{prefix}{n}", resources=SMALL, **fields) for n in range(number)))
    world.place()
    for task in tasks:
        allocation = world.allocation(task)
        assert isinstance(world.order(allocation), AttemptOrder)
        world.report(allocation, end="exited", exit_code=exit_code)
    world.world.release()
    return tasks


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """What is sent to the server meanwhile: statements, and commits."""
    seen: Counter[str] = Counter()

    def statement(*_: Any) -> None:
        seen["statements"] += 1

    def commit(*_: Any) -> None:
        seen["commits"] += 1

    event.listen(database.engine, "before_cursor_execute", statement)
    event.listen(database.engine, "commit", commit)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", statement)
        event.remove(database.engine, "commit", commit)


def test_many_cost_as_many_statements_as_few(world: TaskWorld, database: Database) -> None:
    costs = []
    for number in (2, 20):
        tasks = done(world, number, prefix=f"of-{number}-")
        with counted(database) as seen:
            world.settle()
        assert {world.state(task) for task in tasks} == {TaskState.SUCCEEDED}
        costs.append(seen)
    few, many = costs
    assert few == many and few["commits"] == 1


def test_each_goes_its_own_way_once(world: TaskWorld) -> None:
    good, bad, again = (
        done(world, 2, prefix=prefix, exit_code=code, **more)
        for prefix, code, more in (
            ("good", 0, {}), ("bad", 1, {}), ("again", 1, {"retry": {"max": 1, "on": ["error"], "backoff": "1h"}}),
        )
    )  # fmt: skip
    unstarted = world.one("unstarted", resources=SMALL)
    world.place()
    world.evict(world.allocation(unstarted))
    world.world.release()
    after = world.submit(
        document("both", depends_on=["good0", "good1"]),
        document("one-bad", depends_on=["good0", "bad0"]),
        document("finished", depends_on=[{"task": "bad0", "condition": "finished"}, "good1"]),
        document("waits", depends_on=["good0", "again0"]),
    )
    world.settle()
    states = [[world.state(task) for task in tasks] for tasks in (good, bad, again, [unstarted], after)]
    ok, failed, queued = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.QUEUED
    assert states == [
        [ok, ok], [failed, failed], [queued, queued], [queued],
        [queued, TaskState.CANCELLED, queued, TaskState.BLOCKED],
    ]  # fmt: skip
    assert world.attempts(unstarted) == [] and world.task(unstarted).allocation_id is not None
    assert all(world.task(task).allocation_id is None for task in again), "their pause has begun"
    for task in (*good, *bad, *again):
        assert [(each.state, each.end) for each in world.attempts(task)] == [(AttemptState.ENDED, AttemptEnd.EXITED)]
    ends = [each for each in world.fleet.rows(TaskEvent) if not TASK[TaskState(each.to_state)]]
    assert Counter(each.task_id for each in ends) == dict.fromkeys([task.id for task in (*good, *bad, after[1])], 1)
    assert sum(each.to_state == AttemptState.ENDED for each in world.fleet.rows(TaskAttemptEvent)) == 6


def test_one_that_fails_keeps_none_of_the_others(world: TaskWorld, database: Database) -> None:
    first, broken, last = done(world, 3)
    spoil = update(Task).where(Task.id == broken.id).values(spec={**broken.spec, "retry": {"max": "many"}})
    database.transact(lambda session: session.execute(spoil))
    world.settle()
    assert (world.state(first), world.state(last)) == (TaskState.SUCCEEDED, TaskState.SUCCEEDED)
    left = world.task(broken)
    assert left.state == TaskState.STOPPING and left.due_at is not None and left.due_at > left.created_at
    with database.session() as session:
        assert session.scalars(select(Task.id).where(Task.due_at.is_not(None))).all() == [broken.id]


def test_what_has_gone_on_meanwhile_is_left_alone(world: TaskWorld, database: Database) -> None:
    """The second of two that have the same list of what is due."""
    tasks = done(world, 3)
    due = [settling._Due(task.id, alike=True) for task in tasks]
    world.cancel(tasks[0])
    world.settle()
    before = world.fleet.rows(TaskEvent)
    assert settling._settle_together(database, due)
    assert len(world.fleet.rows(TaskEvent)) == len(before)
    assert [world.state(task) for task in tasks] == [TaskState.SUCCEEDED] * 3


def test_what_changes_at_this_very_moment_is_left_out(world: TaskWorld, database: Database) -> None:
    first, second = done(world, 2)
    due = [settling._Due(task.id, alike=True) for task in (first, second)]
    with ThreadPoolExecutor(1) as pool, database.session() as session:
        session.get_one(Task, second.id, with_for_update=True).allocation_id = None
        session.flush()
        settled = pool.submit(settling._settle_together, database, due)
        wait_for(lambda: settled.done() or world.fleet.waits_for_locks(), timeout_s=20, what="it to wait for the task")
        session.commit()
    assert settled.result()
    assert (world.state(first), world.state(second)) == (TaskState.SUCCEEDED, TaskState.STOPPING)
    assert [attempt.state for attempt in world.attempts(second)] == [AttemptState.STOPPING]


def test_the_longest_due_come_first_and_alike_ones_together() -> None:
    due = [settling._Due(number, alike=number % 3 != 0) for number in range(9)]
    batches = [[each.task_id for each in batch] for batch in settling._batches(due)]
    assert batches == [[0], [1, 2, 4, 5, 7, 8], [3], [6]]
    many = [settling._Due(number, alike=True) for number in range(settling.TOGETHER + 1)]
    assert [len(batch) for batch in settling._batches(many)] == [settling.TOGETHER, 1]


def test_a_lost_host_ends_what_ran_on_it(world: TaskWorld) -> None:
    tasks = world.submit(*(document(f"t{n}", resources=SMALL) for n in range(3)))
    world.place()
    for task in tasks:
        world.order(world.allocation(task))
        world.request_end(world.allocation(task), EndReason.HOST_LOST)
    world.finish()
    assert {world.state(task) for task in tasks} == {TaskState.QUEUED}
    assert {attempt.end for task in tasks for attempt in world.attempts(task)} == {AttemptEnd.HOST_LOST}


def test_what_waits_for_one_that_can_not_be_queued_is_led_on(world: TaskWorld) -> None:
    first, second, third, cleaning = world.submit(
        document("a", resources=SMALL),
        document("b", resources=SMALL, depends_on=["a"]),
        document("c", resources=SMALL, depends_on=["b"]),
        document("d", resources=SMALL, depends_on=[{"task": "b", "condition": "finished"}]),
    )
    allocation = world.run(first)
    nothing = Quota(customer_id=first.customer_id, gpus=0, cpu_milli=0)
    world.database.transact(lambda session: session.add(nothing))
    world.report(allocation, end="exited", exit_code=0, gone=True)
    world.settle()
    assert (world.state(second), world.state(third)) == (TaskState.FAILED, TaskState.CANCELLED)
    assert world.state(cleaning) is TaskState.FAILED, "it is led on, and can't be queued either"
