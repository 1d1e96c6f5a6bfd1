"""What becomes of tasks that are due: their allocation ends, their parents have ended, or it is time to try again.

Whatever may lead a task on sets its `due_at`, in the transaction in which it comes about: the end of an allocation by
a trigger, a parent's end by `transitions.wake_children`, a failed attempt by the pause that follows it. Each step
decides by what it reads under the locks of `current` alone, and may be repeated. Those of tasks that have allocations
are taken many in one transaction: so a thousand short tasks that end at once do not cost a thousand of these.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.clock import utc_now
from api.db import Database
from api.errors import ApiError, Conflict
from api.tasks import arrays, elements, graph, words
from api.tasks.attempts import begin, end_attempt, stop
from api.tasks.current import Current, lock, lock_all
from api.tasks.graph import Condition, Verdict
from api.tasks.outcome import outcome_of
from api.tasks.queueing import Queue
from api.tasks.spec import Retry, TaskSpec
from api.tasks.tables import Task, TaskAttempt, TaskDependency
from api.tasks.transitions import move, wake_children
from scheduler.states import TASK, AllocationState, AttemptEnd, AttemptState, EndReason, TaskState

ACTOR = "controller"
AT_ONCE = 200
"""Tasks that are looked up together."""
TOGETHER = 50
"""Tasks that are led on in one transaction: so long nobody else changes them or their allocations."""
LONGEST_S = 0.2
"""After so long the controller sees to its other duties."""
AFTER_FAILURE = timedelta(seconds=5)

_log = logging.getLogger(__name__)


def settle(database: Database) -> bool:
    """Lead on what is due, for a bounded time; whether something is left."""
    began = time.monotonic()
    while due := _due(database):
        for batch in _batches(due):
            if time.monotonic() - began > LONGEST_S:
                return True
            _settle_batch(database, batch)
    return False


@dataclass(frozen=True, slots=True)
class _Due:
    """`alike`: it has an allocation, whose course is all that it follows."""

    task_id: int
    alike: bool


def _due(database: Database) -> list[_Due]:
    """Those that are longest due."""
    alike = and_(Task.allocation_id.is_not(None), Task.array_id.is_(None))
    query = select(Task.id, alike).where(Task.due_at <= utc_now()).order_by(Task.due_at).limit(AT_ONCE)
    with database.session() as session:
        return [_Due(*row) for row in session.execute(query)]


def _batches(due: Sequence[_Due]) -> Iterator[list[_Due]]:
    """In their order, but that with one of those that are alike come the next ones."""
    alike = deque(each for each in due if each.alike)
    begun: set[_Due] = set()
    for each in due:
        if not each.alike:
            yield [each]
        elif each not in begun:
            batch = [alike.popleft() for _ in range(min(TOGETHER, len(alike)))]
            begun.update(batch)
            yield batch


def _settle_batch(database: Database, batch: Sequence[_Due]) -> None:
    if batch[0].alike and _settle_together(database, batch):
        return
    for each in batch:
        _settle_one(database, each.task_id)


def _settle_together(database: Database, batch: Sequence[_Due]) -> bool:
    """False: one of them fails, and nothing has changed."""
    try:
        database.transact(partial(_lead_on_together, task_ids=[each.task_id for each in batch]))
    except Exception:
        _log.exception("%d tasks are not settled together; each is tried alone", len(batch))
        return False
    return True


def _lead_on_together(session: Session, task_ids: Sequence[int]) -> None:
    found = lock_all(session, task_ids)
    for current in found:
        _advance(session, current, actor=ACTOR)
    wake_children(session, [current.task for current in found])


def _settle_one(database: Database, task_id: int) -> None:
    """One that fails must not keep the others, nor be tried without a pause."""
    try:
        database.transact(partial(_lead_on, task_id=task_id))
    except Conflict:
        pass  # somebody else has led it on at this very moment: it is due still, if it is
    except Exception:
        _log.exception("task %d is not settled; tried again", task_id)
        put_off = update(Task).where(Task.id == task_id).values(due_at=utc_now() + AFTER_FAILURE)
        database.transact(lambda session: session.execute(put_off))


def _lead_on(session: Session, task_id: int) -> None:
    task = session.get_one(Task, task_id)
    if arrays.is_array(task) and task.state != TaskState.BLOCKED:
        arrays.advance(session, task_id, actor=ACTOR)
    elif to_be_queued(task) and task.cancelled_at is None:
        _queue(session, task)
    else:
        current = lock(session, task_id)
        _stop_worker(session, current)
        advance(session, current, actor=ACTOR)


def _stop_worker(session: Session, current: Current) -> None:
    """Its array needs it no more, or somebody wants the array's end."""
    task, allocation = current.task, current.allocation
    if task.array_id is not None and task.cancelled_at is not None and allocation is not None:
        request_end(session, allocation, end_reason=EndReason.CANCELLED, actor=ACTOR, reason=task.detail)


def to_be_queued(task: Task) -> bool:
    return task.state == TaskState.QUEUED and task.allocation_id is None and not arrays.is_array(task)


def advance(session: Session, current: Current, *, actor: str) -> None:
    """Lead a task, locked, as far as what has come about takes it. That it is to be queued stays due."""
    _advance(session, current, actor=actor)
    wake_children(session, [current.task])


def _advance(session: Session, current: Current, *, actor: str) -> None:
    """The same, but for those that wait for its end."""
    task, allocation = current.task, current.allocation
    state = TaskState(task.state)
    if to_be_queued(task):
        if task.cancelled_at is not None:
            move(session, task, TaskState.CANCELLED, actor=actor, detail=task.detail)
            task.due_at = None
        return
    task.due_at = None
    if state is TaskState.BLOCKED:
        _judge(session, task, actor=actor)
    elif not TASK[state] or allocation is None:
        return
    elif allocation.state == AllocationState.RELEASING and current.attempt is not None:
        stop(session, current, end=None, actor=actor, detail=allocation.end_detail or "")
    elif allocation.state == AllocationState.RELEASED:
        _released(session, current, actor=actor)


def _judge(session: Session, task: Task, *, actor: str) -> None:
    """A blocked task: cancelled, or its parents have ended as it asks or can no longer do so."""
    if task.cancelled_at is not None:
        move(session, task, TaskState.CANCELLED, actor=actor, detail=task.detail)
        return
    query = (
        select(Task.id, Task.name, Task.state, TaskDependency.condition)
        .join(TaskDependency, TaskDependency.parent_id == Task.id)
        .where(TaskDependency.task_id == task.id)
        .order_by(Task.id)
    )
    rows = session.execute(query).all()
    parents = {row.id: Condition(row.condition) for row in rows}
    states = {row.id: TaskState(row.state) for row in rows}
    verdict = graph.judge(parents, states)
    if verdict is Verdict.START:
        move(session, task, TaskState.QUEUED, actor=actor)
        task.due_at = utc_now()
    elif verdict is Verdict.CANCEL:
        row = next(row for row in rows if graph.fails(parents[row.id], states[row.id]))
        detail = words.of_dependency(row.name, states[row.id])
        move(session, task, TaskState.CANCELLED, actor=actor, detail=detail)


def _queue(session: Session, task: Task) -> None:
    """The next allocation, of work that was accepted before. The customer's row, which that locks, comes first."""
    spec = TaskSpec.model_validate(task.spec)
    detail = ""
    allocation_id = None
    try:
        with session.begin_nested():
            allocation_id = Queue(session, task.customer_id).add(task, spec, actor=ACTOR, again=True).id
    except ApiError as error:
        detail = f"It could not be queued again: {error.detail}" if task.attempts else error.detail
    session.refresh(task, with_for_update=True)
    if not to_be_queued(task) or task.cancelled_at is not None:
        raise Conflict("It was changed at this very moment.", code="task_changed")
    task.due_at = None
    if allocation_id is None:
        _close(session, task, TaskState.FAILED, None, actor=ACTOR, detail=detail)
        wake_children(session, [task])
    else:
        task.allocation_id = allocation_id


def _released(session: Session, current: Current, *, actor: str) -> None:
    """Its hosts have confirmed, or are lost: nothing of it runs any more."""
    if current.attempt is None:
        _end_unstarted(session, current, actor=actor)
    if current.attempt is None:
        return
    if current.attempt.state != AttemptState.ENDED:
        assert current.allocation is not None
        stop(session, current, end=None, actor=actor, detail=current.allocation.end_detail or "")
        conclude(session, current.task, current.attempt, actor=actor)


def _end_unstarted(session: Session, current: Current, *, actor: str) -> None:
    """Nothing had begun in the allocation. What was accepted goes back to the queue, unless somebody wants its end."""
    task, allocation = current.task, current.allocation
    assert allocation is not None
    reason = EndReason(allocation.end_reason or EndReason.HOST_LOST)
    detail = words.of_unstarted(allocation)
    if task.cancelled_at is not None or reason is EndReason.CANCELLED:
        _close(session, task, TaskState.CANCELLED, None, actor=actor, detail=task.detail or detail)
    elif reason is EndReason.UNPAID:
        _close(session, task, TaskState.FAILED, None, actor=actor, detail=detail)
    elif reason is EndReason.FAILED:
        begin(session, current, actor=actor)  # its host says that it can't: so much is an attempt
    else:
        task.allocation_id, task.due_at, task.detail = None, utc_now(), detail


def conclude(session: Session, task: Task, attempt: TaskAttempt, *, actor: str) -> None:
    """Nothing of a stopping attempt runs any more: once more, or the end."""
    end_attempt(session, attempt, actor=actor)
    end = AttemptEnd(attempt.end or AttemptEnd.HOST_LOST)
    task.retries += end is not AttemptEnd.PREEMPTED  # to give way is no failure
    outcome = outcome_of(
        end,
        exit_code=attempt.exit_code if attempt.signal is None else None,
        retry=Retry.model_validate(task.spec.get("retry", {})),
        attempts=task.retries,
        cancelled=task.cancelled_at is not None,
    )
    task.exit_code = attempt.exit_code
    detail = words.of_attempt(attempt)
    _close(session, task, outcome.state, attempt, actor=actor, detail=detail)
    if outcome.state is TaskState.QUEUED:
        task.allocation_id, task.due_at = None, utc_now() + timedelta(seconds=outcome.wait_s)


def _close(
    session: Session, task: Task, state: TaskState, attempt: TaskAttempt | None, *, actor: str, detail: str
) -> None:
    """Where it goes once nothing of it runs. What a worker had of its array goes back first."""
    if task.array_id is not None:
        task.detail = detail
        elements.give_back(session, task, attempt)
    move(session, task, state, actor=actor, detail=detail)
