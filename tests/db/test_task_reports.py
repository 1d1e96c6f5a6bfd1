"""What hosts report of attempts: bounded, fenced, and taken over once."""

import math
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import event

from api.clock import to_ms, utc_now
from api.db import Database
from api.machines.tables import Host
from api.settings import Settings
from api.tasks import observation
from api.tasks.observation import MAX_TEXT, see
from scheduler.host_protocol import AttemptPhase, AttemptReport, EndNotice, Heartbeat, TaskProgress
from scheduler.states import AllocationState, AttemptEnd, AttemptState, EndReason, TaskState
from tests.db.task_world import TaskWorld

_FAR_MS = 2**62


@pytest.fixture
def world(database: Database, settings: Settings) -> TaskWorld:
    return TaskWorld.make(database, settings)


def test_a_report_says_nothing_new_twice(world: TaskWorld, database: Database) -> None:
    allocation = world.run(world.one())
    at_ms = to_ms(utc_now())
    for locks, said in ((True, 1), (False, 1), (True, 2)):
        taken: list[str] = []

        def note(_c: object, _k: object, statement: str, *_rest: Any, taken: list[str] = taken) -> None:
            if "task_attempts" in statement and "FOR UPDATE" in statement:
                taken.append(statement)

        event.listen(database.engine, "before_cursor_execute", note)
        progress = TaskProgress(0.5, f"epoch {said}", at_ms)
        world.report(allocation, AttemptPhase.RUNNING, running_at_ms=at_ms, progress=progress)
        event.remove(database.engine, "before_cursor_execute", note)
        assert bool(taken) is locks, said


def test_progress_and_checkpoints_are_taken_over(world: TaskWorld) -> None:
    task = world.one()
    allocation = world.run(task)
    at_ms = to_ms(utc_now())
    world.report(
        allocation, AttemptPhase.RUNNING, progress=TaskProgress(0.25, "epoch 1", at_ms), checkpoint_at_ms=at_ms
    )
    shown = world.task(task).progress
    assert shown is not None and (shown["fraction"], shown["line"]) == (0.25, "epoch 1")
    safe_until = world.allocation(task).checkpoint_at
    assert safe_until is not None and to_ms(safe_until) == at_ms
    world.report(allocation, AttemptPhase.RUNNING, checkpoint_at_ms=at_ms - 1000)
    assert world.allocation(task).checkpoint_at == safe_until, "work does not become unsafe again"


@pytest.mark.parametrize(
    "said",
    [
        {"end": "preempted"},
        {"end": "no end at all"},
        {"end": None},
        {"end": "exited", "exit_code": 2**70, "signal": -5},
        {"end": "exited", "exit_code": 1, "detail": "x" * 10**5 + "\0", "limit_hit": "\0" * 10, "notice": "\0y"},
        {"end": "exited", "exit_code": 1, "running_at_ms": _FAR_MS, "ended_at_ms": -_FAR_MS},
        {"end": "exited", "exit_code": 1, "progress": TaskProgress(math.inf, "\0", _FAR_MS)},
        {"end": "exited", "exit_code": 1, "progress": TaskProgress(math.nan, "z" * 10**5, -_FAR_MS)},
        {"end": "exited", "exit_code": 1, "checkpoint_at_ms": _FAR_MS},
    ],
)
def test_whatever_a_host_says_can_be_kept_and_ends_the_attempt(world: TaskWorld, said: dict[str, Any]) -> None:
    task = world.one(retry={"max": 0})
    allocation = world.run(task)
    world.end(allocation, **{"exit_code": None, "end": "exited", **said})
    (attempt,) = world.attempts(task)
    assert (attempt.state, world.state(task)) == (AttemptState.ENDED, TaskState.FAILED)
    assert attempt.end == AttemptEnd.EXITED
    assert len(attempt.detail) <= MAX_TEXT
    assert all(at is None or at <= utc_now() for at in (attempt.running_at, world.allocation(task).checkpoint_at))


def test_a_report_survives_its_own_json(world: TaskWorld) -> None:
    """As it comes over the wire: what pydantic lets through, `see` bounds."""
    text = (
        '{"allocation_uid": "no uuid", "generation": 1, "phase": "ended", "end": "exited", "exit_code": -3,'
        ' "progress": {"fraction": NaN, "line": "a", "at_ms": 99999999999999999}, "ended_at_ms": 99999999999999999}'
    )
    seen = see(TypeAdapter(AttemptReport).validate_json(text), now=utc_now())
    assert (seen.exit_code, seen.end) == (None, AttemptEnd.EXITED)
    assert seen.progress is not None and seen.progress["fraction"] is None
    beat = Heartbeat("b", "d", (), (), (), 0, attempts=(AttemptReport("no uuid", 1, AttemptPhase.RUNNING),))
    assert beat.attempts
    world.world.beat(world.host, attempts=beat.attempts)


def test_reports_of_others_or_of_older_generations_change_nothing(world: TaskWorld) -> None:
    task = world.one()
    allocation = world.run(task)
    other = world.world.host("h2")
    report = AttemptReport(str(allocation.uid), allocation.generation, AttemptPhase.ENDED, end="exited", exit_code=0)
    world.world.beat(other, attempts=(report,))
    world.report(allocation, generation=0, end="exited", exit_code=0)
    world.report(allocation, generation=2, end="exited", exit_code=0)
    assert world.state(task) is TaskState.RUNNING
    world.end(allocation)
    world.report(allocation, end="exited", exit_code=1)
    world.settle()
    assert (world.state(task), world.task(task).exit_code) == (TaskState.SUCCEEDED, 0)


@pytest.mark.parametrize(("code", "state"), [(0, TaskState.SUCCEEDED), (3, TaskState.QUEUED)])
def test_it_is_over_with_the_word_that_nothing_of_it_runs(world: TaskWorld, code: int, state: TaskState) -> None:
    task = world.one(retry={"max": 1, "on": ["error"], "backoff": "0s"})
    allocation = world.run(task)
    world.report(allocation, end="exited", exit_code=code, gone=True)
    (attempt,) = world.attempts(task)
    assert (attempt.state, world.state(task)) == (AttemptState.ENDED, state)
    assert world.world.fleet.allocation(allocation.id).state == AllocationState.RELEASING, (
        "its devices are not free yet"
    )
    assert (world.task(task).due_at is None) == (state is TaskState.SUCCEEDED)
    world.report(allocation, end="exited", exit_code=9, gone=True)
    world.finish()
    assert world.world.fleet.allocation(allocation.id).state == AllocationState.RELEASED
    assert world.task(task).exit_code == code
    if state is TaskState.SUCCEEDED:
        assert world.task(task).due_at is None, "there is nothing to settle any more"
    else:
        assert world.start(task).id != allocation.id


def test_what_waits_for_it_need_not_wait_for_its_release(world: TaskWorld) -> None:
    parent = world.one(name="parent")
    child = world.one(depends_on=["parent"])
    world.report(world.run(parent), end="exited", exit_code=0, gone=True)
    world.settle()
    assert world.state(child) is TaskState.QUEUED


def test_what_may_run_still_is_not_over_before_its_release(world: TaskWorld) -> None:
    task = world.one()
    world.report(world.run(task), end="timed_out", exit_code=None, signal=9)
    assert world.state(task) is TaskState.STOPPING


def test_what_has_changed_since_the_look_without_locks_is_seen_under_them(world: TaskWorld) -> None:
    task = world.one()
    allocation = world.run(task)
    other = world.world.host("h2")

    def take(host: Host, generation: int) -> None:
        report = AttemptReport(str(allocation.uid), generation, AttemptPhase.ENDED, end="exited", exit_code=0)
        seen = see(report, now=utc_now())
        world.database.transact(lambda session: observation.take(session, host_id=host.id, seen=seen, actor="host"))

    for host, generation in ((world.host, 0), (world.host, 2), (other, 1)):
        take(host, generation)
        assert world.state(task) is TaskState.RUNNING
    take(world.host, 1)
    assert world.state(task) is TaskState.STOPPING


def test_a_late_report_of_a_start_is_still_the_start(world: TaskWorld) -> None:
    """It was over before the first heartbeat."""
    task = world.one()
    allocation = world.start(task)
    began = utc_now() - timedelta(milliseconds=5)
    world.report(allocation, end="exited", exit_code=0, running_at_ms=to_ms(began))
    (attempt,) = world.attempts(task)
    assert attempt.running_at is not None and to_ms(attempt.running_at) == to_ms(began)
    assert world.task(task).started_at == attempt.running_at


@pytest.mark.parametrize(("running", "end"), [(True, AttemptEnd.DISK_FULL), (False, AttemptEnd.START_FAILED)])
def test_a_lease_that_its_host_ended_by_itself(world: TaskWorld, running: bool, end: AttemptEnd) -> None:
    task = world.one(retry={"max": 0})
    allocation = world.run(task) if running else world.start(task)
    notice = EndNotice(str(allocation.uid), allocation.generation, "20 GiB are full")
    world.world.beat(world.host, allocation, endings=(notice,))
    world.finish()
    (attempt,) = world.attempts(task)
    assert (attempt.end, world.state(task)) == (end, TaskState.FAILED)
    assert "20 GiB are full" in world.task(task).detail


def test_what_the_report_says_comes_before_what_the_notice_says(world: TaskWorld) -> None:
    task = world.one(retry={"max": 0})
    allocation = world.run(task)
    report = AttemptReport(
        str(allocation.uid), 1, AttemptPhase.ENDED, end="out_of_memory", exit_code=137, limit_hit="memory: 256 MiB"
    )
    notice = EndNotice(str(allocation.uid), 1, "it ended")
    world.world.beat(world.host, allocation, attempts=(report,), endings=(notice,))
    world.finish()
    assert world.attempts(task)[0].end == AttemptEnd.OUT_OF_MEMORY
    assert world.allocation(task).end_reason == EndReason.FAILED
