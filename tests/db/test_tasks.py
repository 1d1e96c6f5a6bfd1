"""A task's course: queued, started at its host's question, observed, and settled once its allocation is released."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from api.allocations.expiry import end_expired
from api.allocations.tables import Allocation
from api.billing.tables import Hold
from api.clock import utc_now
from api.db import Database
from api.errors import ApiError, Conflict, NotFound
from api.quotas.tables import Quota
from api.settings import Settings
from api.tasks.orders import Over
from api.tasks.queueing import Queue
from api.tasks.settling import settle
from api.tasks.spec import TaskSpec
from api.tasks.tables import Task, TaskAttemptEvent, TaskEvent
from scheduler.host_protocol import AttemptOrder, AttemptPhase, LeaseKind
from scheduler.ports import Admitted, Placed
from scheduler.states import AllocationState, AttemptEnd, AttemptState, EndReason, TaskState
from tests.db.fleet import GIB, decide
from tests.db.task_world import TaskWorld, document
from tests.waiting import wait_for


@pytest.fixture
def world(database: Database, settings: Settings) -> TaskWorld:
    return TaskWorld.make(database, settings)


def events(world: TaskWorld, table: Any) -> list[str]:
    return [event.to_state for event in world.fleet.rows(table)]


def test_a_task_goes_its_way(world: TaskWorld) -> None:
    task = world.one(env={"EPOCHS": "3"}, timeout="1h", checkpoint={"signal": "SIGUSR1", "grace": "2m"})
    assert world.state(task) is TaskState.QUEUED
    store = world.fleet.lead()
    (admitted,) = store.admit(decide(store))
    assert isinstance(admitted, Admitted) and admitted.leases[0].kind is LeaseKind.TASK
    allocation = world.allocation(task)
    with pytest.raises(Conflict) as refused:
        world.order(allocation)
    assert refused.value.code == "not_yet", "the grant may yet fail"
    world.fleet.lead().record([Placed(admitted.allocation_id, admitted.generation)])
    order = world.order(allocation)
    assert isinstance(order, AttemptOrder)
    assert (order.command, order.timeout_s, order.signal, order.grace_s) == ("true", 3600, "SIGUSR1", 120)
    told = {"EPOCHS": "3", "TASK_ID": str(task.uid), "TASK_NAME": "train", "ATTEMPT": "1"}
    alone = {"RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert order.environment == {**told, **alone}
    assert world.order(allocation) == order, "asking again begins no other attempt"
    assert world.state(task) is TaskState.STARTING
    world.report(allocation, AttemptPhase.PULLING, detail="40 %")
    (attempt,) = world.attempts(task)
    assert (attempt.phase, attempt.detail, attempt.running_at) == ("pulling", "40 %", None)
    world.report(allocation, AttemptPhase.RUNNING)
    assert world.state(task) is TaskState.RUNNING
    assert world.task(task).started_at is not None
    world.report(allocation, end="exited", exit_code=0)
    assert world.state(task) is TaskState.STOPPING
    assert world.allocation(task).end_reason == EndReason.COMPLETED
    world.finish()
    done = world.task(task)
    assert (done.state, done.exit_code, done.detail) == (TaskState.SUCCEEDED, 0, "")
    assert events(world, TaskEvent) == ["queued", "starting", "running", "stopping", "succeeded"]
    assert events(world, TaskAttemptEvent) == ["starting", "running", "stopping", "ended"]
    assert done.due_at is None and done.ended_at is not None


def test_only_its_host_hears_the_order_and_only_under_its_generation(world: TaskWorld) -> None:
    task = world.one()
    world.place()
    allocation = world.allocation(task)
    other = world.world.host("h2")
    with pytest.raises(NotFound):
        world.order(allocation, host=other)
    assert isinstance(world.order(allocation, generation=0), Over)
    assert isinstance(world.order(allocation, generation=2), Over)
    assert world.attempts(task) == []
    assert isinstance(world.order(allocation), AttemptOrder)
    world.end(allocation)
    with pytest.raises(NotFound):
        world.order(world.fleet.submit(world.world.owner))  # an environment's lease has no order
    assert isinstance(world.order(allocation), Over)
    assert len(world.attempts(task)) == 1


@pytest.mark.parametrize(
    ("end", "exit_code", "said", "state", "detail"),
    [
        ("exited", 3, {}, TaskState.FAILED, "It ended with exit code 3."),
        ("exited", None, {"signal": 9}, TaskState.FAILED, "It was ended by SIGKILL."),
        ("timed_out", None, {"signal": 15}, TaskState.TIMED_OUT, "It took longer than its timeout."),
        ("out_of_memory", 137, {"limit_hit": "32 GiB"}, TaskState.FAILED, "It used more memory than it has: 32 GiB."),
        (
            "image_missing",
            None,
            {"detail": "no such image"},
            TaskState.FAILED,
            "Its host could not get the image: no such image.",
        ),
        ("setup_failed", 2, {}, TaskState.FAILED, "Its setup failed: It ended with exit code 2."),
    ],
)
def test_ends_are_told_apart(
    world: TaskWorld, end: str, exit_code: int | None, said: dict[str, Any], state: TaskState, detail: str
) -> None:
    task = world.one()
    allocation = world.run(task)
    world.end(allocation, end, exit_code=exit_code, **said)
    done = world.task(task)
    assert (done.state, done.detail, done.exit_code) == (state, detail, exit_code)
    (attempt,) = world.attempts(task)
    assert (attempt.end, attempt.state) == (end, AttemptState.ENDED)
    assert world.allocation(task).end_reason == EndReason.FAILED


def test_an_error_is_tried_again_after_a_pause_and_only_so_often(world: TaskWorld) -> None:
    task = world.one(retry={"max": 1, "on": ["error"], "backoff": "10m"})
    world.end(world.run(task), exit_code=1)
    waiting = world.task(task)
    assert (waiting.state, waiting.allocation_id, waiting.retries) == (TaskState.QUEUED, None, 1)
    assert waiting.due_at is not None and 590 < (waiting.due_at - waiting.created_at).total_seconds() < 610
    world.settle()
    assert world.task(task).allocation_id is None, "not before its time"
    world.pass_backoff(task)
    world.end(world.run(task), exit_code=1)
    assert world.state(task) is TaskState.FAILED
    assert [attempt.number for attempt in world.attempts(task)] == [1, 2]


def test_who_gives_way_comes_back_at_once_however_often(world: TaskWorld) -> None:
    task = world.one(preemptible=True, retry={"max": 0})
    for number in range(1, 4):
        allocation = world.run(task)
        world.evict(allocation)
        world.settle()
        assert world.state(task) is TaskState.STOPPING
        assert world.attempts(task)[-1].end == AttemptEnd.PREEMPTED
        world.report(allocation, end="exited", exit_code=0, notice="SIGTERM at 12:00")
        world.finish()
        assert world.state(task) is TaskState.QUEUED
        assert world.allocation(task).state == AllocationState.QUEUED
        assert (world.task(task).attempts, world.task(task).retries) == (number, 0)
    assert [attempt.notice for attempt in world.attempts(task)] == ["SIGTERM at 12:00"] * 3


def test_a_preemption_says_when_nobody_told_the_task(world: TaskWorld) -> None:
    task = world.one(preemptible=True)
    world.evict(world.run(task))
    world.finish()
    assert "has not said" in world.attempts(task)[0].notice


def test_what_had_ended_before_it_could_hear_of_the_preemption_is_done(world: TaskWorld) -> None:
    task = world.one(preemptible=True)
    allocation = world.run(task)
    world.evict(allocation)
    world.settle()
    world.report(allocation, end="exited", exit_code=0, ended_at_ms=0)
    world.finish()
    assert world.state(task) is TaskState.SUCCEEDED


def test_a_lost_host_costs_an_attempt(world: TaskWorld) -> None:
    task = world.one(retry={"max": 1})
    for _ in range(2):
        allocation = world.run(task)
        world.request_end(allocation, EndReason.HOST_LOST)
        world.finish()
    assert world.state(task) is TaskState.FAILED
    assert [attempt.end for attempt in world.attempts(task)] == [AttemptEnd.HOST_LOST] * 2


def test_the_longest_lease_is_a_tasks_too(world: TaskWorld) -> None:
    """It has timed out then: to try it again would end in the same way."""
    customer_id = world.world.owner[0].id
    world.database.transact(lambda session: session.add(Quota(customer_id=customer_id, lease_s=3600)))
    task = world.one(retry={"max": 1})
    allocation = world.run(task)
    assert allocation.limit_s == 3600
    world.database.transact(lambda session: end_expired(session, utc_now() + timedelta(seconds=3599)))
    assert world.state(task) is TaskState.RUNNING
    with world.database.session() as session, session.begin():
        session.get_one(Allocation, allocation.id).placed_at = utc_now() - timedelta(seconds=3600)
        session.flush()
        end_expired(session, utc_now())
    world.finish()
    assert [attempt.end for attempt in world.attempts(task)] == [AttemptEnd.TIMED_OUT]
    assert world.state(task) is TaskState.TIMED_OUT


def test_what_never_started_goes_back_to_the_queue(world: TaskWorld) -> None:
    task = world.one(retry={"max": 0})
    for reason in (EndReason.HOST_LOST, EndReason.PREEMPTED, EndReason.EXPIRED):
        world.place()
        before = world.allocation(task)
        world.request_end(before, reason)
        assert isinstance(world.order(before), Over)
        world.finish()
        assert world.state(task) is TaskState.QUEUED
        assert world.allocation(task).id != before.id
    assert world.attempts(task) == []


def test_a_host_that_cannot_start_it_has_tried(world: TaskWorld) -> None:
    task = world.one(retry={"max": 0})
    world.place()
    world.request_end(world.allocation(task), EndReason.FAILED)
    world.finish()
    (attempt,) = world.attempts(task)
    assert (world.state(task), attempt.end) == (TaskState.FAILED, AttemptEnd.START_FAILED)


def test_cancelling(world: TaskWorld) -> None:
    queued = world.one("queued")
    assert world.cancel(queued).state == TaskState.CANCELLED, "at once"
    running = world.one("running", retry={"on": ["error"]})
    allocation = world.run(running)
    assert world.cancel(running).state == TaskState.STOPPING
    assert world.cancel(running).state == TaskState.STOPPING
    world.report(allocation, end="exited", exit_code=1, notice="SIGTERM")
    world.finish()
    (attempt,) = world.attempts(running)
    assert (world.state(running), attempt.end, attempt.exit_code) == (TaskState.CANCELLED, AttemptEnd.CANCELLED, 1)
    assert world.cancel(running).state == TaskState.CANCELLED


def test_cancelling_what_is_placed_and_what_waits_to_be_tried_again(world: TaskWorld) -> None:
    placed_one = world.one()
    world.place()
    assert world.cancel(placed_one).state == TaskState.QUEUED, "its host must confirm"
    assert isinstance(world.order(world.allocation(placed_one)), Over)
    world.finish()
    assert world.state(placed_one) is TaskState.CANCELLED
    failed = world.one(retry={"on": ["error"], "backoff": "1h"})
    world.end(world.run(failed), exit_code=1)
    assert world.cancel(failed).state == TaskState.CANCELLED
    assert world.attempts(placed_one) == []


def test_unpaid_is_an_end(world: TaskWorld) -> None:
    started, placed_only = world.one(), world.one("other")
    world.run(started)
    for task in (started, placed_only):
        world.request_end(world.allocation(task), EndReason.UNPAID)
    world.finish()
    assert [world.state(task) for task in (started, placed_only)] == [TaskState.FAILED] * 2


def test_children_start_or_are_cancelled(world: TaskWorld) -> None:
    first, second, last, cleaning = world.submit(
        document("prepare"),
        document("train", depends_on=["prepare"]),
        document("report", depends_on=["train"]),
        document("clean", depends_on=[{"task": "train", "condition": "finished"}]),
    )
    assert [world.state(task) for task in (first, second, last, cleaning)] == [TaskState.QUEUED] + [
        TaskState.BLOCKED
    ] * 3
    world.end(world.run(first))
    assert world.state(second) is TaskState.QUEUED
    assert world.task(second).allocation_id is not None
    world.end(world.run(second), exit_code=1)
    assert world.state(last) is TaskState.CANCELLED
    assert world.task(last).detail == "cancelled: dependency 'train' has failed"
    assert world.state(cleaning) is TaskState.QUEUED


def test_a_name_is_the_newest_task_of_it(world: TaskWorld) -> None:
    old, new = world.one("prepare"), world.one("prepare")
    child = world.one(depends_on=["prepare"])
    world.cancel(old)
    world.settle()
    assert world.state(child) is TaskState.BLOCKED
    world.cancel(new)
    world.settle()
    assert world.state(child) is TaskState.CANCELLED
    with pytest.raises(ApiError) as refused:
        world.one(depends_on=["prepare"])
    assert refused.value.code == "dependency_failed"


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        ([document("a", depends_on=["b"]), document("b", depends_on=["a"])], "dependency_cycle"),
        ([document("a", depends_on=["nowhere"])], "unknown_dependency"),
        ([document("a"), document("a")], "name_twice"),
        ([document("a"), document("b", image="none")], "unknown_image"),
        ([document("a", secrets=["KEY"])], "unknown_secret"),
        ([document("a", priority=900)], "priority_too_high"),
        ([document("a", depends_on=["b"], resources={"gpus": 64}), document("b")], "too_many_gpus"),
        ([document("a", array="0-9", nodes=2)], "not_supported"),
    ],
)
def test_what_can_not_be_is_refused_with_all_that_came_with_it(
    world: TaskWorld, documents: list[dict[str, Any]], code: str
) -> None:
    with pytest.raises(ApiError) as refused:
        world.submit(*documents)
    assert refused.value.code == code
    assert events(world, TaskEvent) == []


def test_uploads_and_submission_ids(world: TaskWorld) -> None:
    with pytest.raises(ApiError) as refused:
        world.submit(document(), working_dir="0" * 64)
    assert refused.value.code == "unknown_upload"
    world.submit(document(), submission_id="job-1")
    with pytest.raises(Conflict) as taken:
        world.submit(document(), submission_id="job-1")
    assert taken.value.code == "submission_exists"


def test_a_task_that_has_ended_is_retried_as_another(world: TaskWorld) -> None:
    task = world.one()
    with pytest.raises(Conflict):
        world.retry(task)
    world.end(world.run(task), exit_code=1)
    again = world.retry(task)
    assert (again.uid != task.uid, again.spec, again.state) == (True, task.spec, TaskState.QUEUED)
    with world.database.session() as session:
        assert session.scalars(select(TaskEvent.to_state).where(TaskEvent.task_id == again.id)).all() == ["queued"]


def test_a_task_without_gpus_costs_nothing(world: TaskWorld) -> None:
    task = world.one(resources={"gpus": 0, "cpus": 0.5}, timeout="1h")
    store = world.fleet.lead()
    (admitted,) = store.admit(decide(store))
    assert isinstance(admitted, Admitted) and admitted.leases[0].devices == ()
    world.fleet.lead().record([Placed(admitted.allocation_id, admitted.generation)])
    allocation = world.allocation(task)
    assert (allocation.gpus, allocation.cpu_milli, allocation.memory_bytes) == (0, 500, 4 * GIB)
    assert isinstance(world.order(allocation), AttemptOrder)
    world.report(allocation, end="exited", exit_code=0)
    world.finish()
    assert world.state(task) is TaskState.SUCCEEDED
    assert world.fleet.rows(Hold) == []


def test_a_parent_that_ends_while_its_child_is_submitted_is_not_missed(world: TaskWorld) -> None:
    for number in range(8):
        parent = world.one(f"parent-{number}")
        allocation = world.run(parent)
        world.report(allocation, end="exited", exit_code=0)
        world.world.release()
        with ThreadPoolExecutor(2) as pool:
            child = pool.submit(world.one, f"child-{number}", depends_on=[parent.name])
            pool.submit(settle, world.database).result()
        world.settle()
        assert world.state(parent) is TaskState.SUCCEEDED
        assert world.state(child.result()) is TaskState.QUEUED
        world.cancel(child.result())


def test_cancelling_takes_effect_at_the_moment_of_being_queued_again(world: TaskWorld) -> None:
    task = world.one(retry={"max": 3, "on": ["error"], "backoff": "1h"})
    world.end(world.run(task), exit_code=1)
    with ThreadPoolExecutor(1) as pool, world.database.session() as session:
        row = session.get_one(Task, task.id, with_for_update=True)
        queue = Queue(session, row.customer_id)
        row.allocation_id = queue.add(row, TaskSpec.model_validate(row.spec), actor="controller", again=True).id
        session.flush()
        cancelled = pool.submit(world.cancel, task)
        wait_for(
            lambda: cancelled.done() or world.fleet.waits_for_locks(), timeout_s=20, what="it to wait for the task"
        )
        session.commit()
    assert cancelled.result().state == TaskState.CANCELLED
    assert world.allocation_states(task) == {AllocationState.RELEASED}


def test_cancelling_while_it_is_led_on_ends_it_once(world: TaskWorld) -> None:
    for number in range(6):
        task = world.one(f"task-{number}", retry={"max": 3, "on": ["error"], "backoff": "0s"})
        allocation = world.run(task)
        world.report(allocation, end="exited", exit_code=1)
        world.world.release()

        with ThreadPoolExecutor(3) as pool:
            pool.submit(settle, world.database)
            cancelled = pool.submit(world.cancel, task)
            pool.submit(settle, world.database)
        assert cancelled.result().cancelled_at is not None
        world.settle()
        assert world.state(task) is TaskState.CANCELLED
        assert world.allocation_states(task) <= {AllocationState.RELEASED}
