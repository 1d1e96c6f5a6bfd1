"""Elements of arrays: given to workers, and what becomes of each try.

An element is with at most one worker, under the generation of that worker's allocation; what anybody else says of it
changes nothing. What a worker has when its attempt is over goes back, once its host has confirmed that nothing of it
runs, or is lost.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.allocations.transitions import notify
from api.clock import from_ms, to_ms, utc_now
from api.errors import Conflict, NotFound
from api.ids import parse_uid
from api.logs.receiving import announce
from api.tasks import arrays, ranges, words
from api.tasks.outcome import Outcome, outcome_of
from api.tasks.spec import Retry
from api.tasks.tables import Task, TaskArray, TaskAttempt, TaskElement, TaskElementTry
from scheduler.host_protocol import ElementResult, ElementRun, ElementsAsked, ElementsGiven
from scheduler.states import AllocationState, AttemptEnd, AttemptState, TaskState

MOST = 256
"""Elements that are given, or results that are taken, with one request."""
_ENDS = (AttemptEnd.EXITED, AttemptEnd.TIMED_OUT, AttemptEnd.OUT_OF_MEMORY)
_WITH_WORKER = (TaskState.STARTING, TaskState.RUNNING)
_NO_SETBACK = (AttemptEnd.PREEMPTED, AttemptEnd.CANCELLED)
_MAX_POSITION = 2**62


def exchange(
    session: Session, *, host_id: int, allocation_uid: str, generation: int, asked: ElementsAsked
) -> ElementsGiven:
    """Take in what became of a worker's elements, and give it others. Repeatable.

    Raises:
        NotFound: the host has no lease of a worker's allocation with that id.
        Conflict: `attempt_over`.
    """
    query = select(Allocation).where(Allocation.uid == parse_uid(allocation_uid)).with_for_update(read=True)
    allocation = session.scalar(query)
    if allocation is None or host_id not in allocation.host_ids:
        raise NotFound("There is no such lease on this host.")
    worker = session.scalar(select(Task).where(Task.allocation_id == allocation.id, Task.array_id.is_not(None)))
    if worker is None or worker.array_id is None:
        raise NotFound("There is no such worker on this host.")
    attempt = session.scalar(
        select(TaskAttempt)
        .where(TaskAttempt.allocation_id == allocation.id, TaskAttempt.generation == generation)
        .with_for_update()
    )
    if attempt is None or allocation.generation != generation or attempt.state == AttemptState.ENDED:
        raise Conflict("The attempt has ended.", code="attempt_over")
    task, array = arrays.lock(session, worker.array_id)
    _take_in(session, task, array, attempt, asked)
    goes_on = allocation.state == AllocationState.ACTIVE and attempt.state != AttemptState.STOPPING
    runs = _give(session, task, array, attempt, asked) if goes_on and task.cancelled_at is None else ()
    over = not runs and (not goes_on or not array.pending or task.cancelled_at is not None)
    return ElementsGiven(runs, over)


def give_back(session: Session, worker: Task, attempt: TaskAttempt | None) -> None:
    """A worker has ended, and nothing of it runs: what it had is tried again if it may, and the array gets another.

    A worker that ended before any element started in it is a setback: as many in a row as a task may have attempts
    cost the array one of its lanes.
    """
    assert worker.array_id is not None
    task, array = arrays.lock(session, worker.array_id)
    end = _end_of(worker, attempt)
    if attempt is not None and _return_all(session, task, array, attempt, end):
        array.setbacks = 0
    elif _did_all(attempt) and end is AttemptEnd.EXITED and array.pending:
        _set_back(task, array, attempt, AttemptEnd.START_FAILED, "It ended without having run any element.")
    elif end not in _NO_SETBACK and not _did_all(attempt):
        _set_back(task, array, attempt, end, words.of_attempt(attempt) if attempt is not None else worker.detail)
    task.due_at = utc_now()
    notify(session)


def _end_of(worker: Task, attempt: TaskAttempt | None) -> AttemptEnd:
    """Of a worker, for its elements: they are cancelled with the array alone."""
    if worker.cancelled_at is not None:
        return AttemptEnd.CANCELLED
    if attempt is None:
        return AttemptEnd.UNPAID
    end = AttemptEnd(attempt.end or AttemptEnd.HOST_LOST)
    if end is AttemptEnd.TIMED_OUT:  # the worker's lease, which an element may have begun late in
        return AttemptEnd.HOST_LOST
    return AttemptEnd.PREEMPTED if end is AttemptEnd.CANCELLED else end


def _did_all(attempt: TaskAttempt | None) -> bool:
    return attempt is not None and attempt.end == AttemptEnd.EXITED and attempt.exit_code == 0


def _set_back(task: Task, array: TaskArray, attempt: TaskAttempt | None, end: AttemptEnd, detail: str) -> None:
    array.setbacks += 1
    array.setback = detail
    code = attempt.exit_code if attempt is not None else None
    outcome = outcome_of(end, exit_code=code, retry=_retry_of(task), attempts=array.setbacks, cancelled=False)
    if outcome.state is TaskState.QUEUED:
        arrays.rest(array, outcome.wait_s)
    else:
        array.lanes -= 1


def _take_in(session: Session, task: Task, array: TaskArray, attempt: TaskAttempt, asked: ElementsAsked) -> None:
    said = {start.place: start for start in asked.started[:MOST]}
    results = {result.place: result for result in asked.results[:MOST]}
    places = [place for place in {*said, *results} if 0 <= place < attempt.elements_taken]
    if not places:
        return
    query = select(TaskElement).where(
        TaskElement.attempt_id == attempt.id, TaskElement.place.in_(places), TaskElement.state.in_(_WITH_WORKER)
    )
    now, retry = utc_now(), _retry_of(task)
    for element in session.scalars(query.order_by(TaskElement.index)):
        if element.place in results:
            _result(session, array, element, results[element.place], retry, now)
            attempt.elements_ended += 1
        elif element.state == TaskState.STARTING:
            start = said[element.place]
            element.state, element.started_at = TaskState.RUNNING, _moment(start.at_ms, now)
            element.log_from = _within(start.log_from, 0, _MAX_POSITION)
    announce(session, attempt.id)  # to those who follow the output of one of them
    _look_at(session, task, array)


def _result(
    session: Session, array: TaskArray, element: TaskElement, result: ElementResult, retry: Retry, now: datetime
) -> None:
    element.end = next((end for end in _ENDS if end == result.end), AttemptEnd.EXITED)
    element.exit_code = _within(result.exit_code, 0, 255)
    element.signal = _within(result.signal, 1, 64)
    element.log_from = _within(result.log_from, 0, _MAX_POSITION)
    element.log_to = _within(result.log_to, 0, _MAX_POSITION)
    element.started_at, element.ended_at = _moment(result.started_at_ms, now), _moment(result.ended_at_ms, now)
    _conclude(session, array, element, AttemptEnd(element.end), retry, now)


def _conclude(
    session: Session, array: TaskArray, element: TaskElement, end: AttemptEnd, retry: Retry, now: datetime
) -> None:
    """After a try: once more, or the end."""
    element.tries += end is not AttemptEnd.PREEMPTED  # to give way is no failure
    code = element.exit_code if element.signal is None else None
    outcome = outcome_of(end, exit_code=code, retry=retry, attempts=element.tries, cancelled=False)
    element.state = outcome.state
    if outcome.state is TaskState.QUEUED:
        session.add_all(_kept(element))
        _again(array, element, outcome, now)
    elif outcome.state is TaskState.SUCCEEDED:
        array.succeeded += 1
    elif outcome.state is not TaskState.CANCELLED:
        array.failed += 1


def _kept(element: TaskElement) -> list[TaskElementTry]:
    """Where the output of a try is that is not the last, if it can have any."""
    if element.log_from is None:
        return []
    return [
        TaskElementTry(
            task_id=element.task_id, index=element.index, attempt_id=element.attempt_id, place=element.place,
            log_from=element.log_from, log_to=element.log_to,
        )
    ]  # fmt: skip


def _again(array: TaskArray, element: TaskElement, outcome: Outcome, now: datetime) -> None:
    if outcome.wait_s:
        element.due_at = now + timedelta(seconds=outcome.wait_s)
        array.waiting += 1
    else:
        array.pending = ranges.to_text(ranges.put(ranges.from_text(array.pending), [element.index]))


def _give(
    session: Session, task: Task, array: TaskArray, attempt: TaskAttempt, asked: ElementsAsked
) -> tuple[ElementRun, ...]:
    """What it was given and does not know of, and as many more as it takes."""
    have = min(max(asked.have, 0), attempt.elements_taken)
    query = select(TaskElement).where(
        TaskElement.attempt_id == attempt.id, TaskElement.place >= have, TaskElement.state.in_(_WITH_WORKER)
    )
    given = [
        ElementRun(element.place, element.index, element.tries + 1)
        for element in session.scalars(query.order_by(TaskElement.place))
    ]
    most = min(max(asked.take, 0), MOST) - len(given)
    if most > 0 and array.pending:
        given += _hand_out(session, array, attempt, most)
        _look_at(session, task, array)
    return tuple(given)


def _hand_out(session: Session, array: TaskArray, attempt: TaskAttempt, most: int) -> Iterable[ElementRun]:
    indices, left = ranges.take(ranges.from_text(array.pending), most)
    array.pending = ranges.to_text(left)
    first = attempt.elements_taken
    attempt.elements_taken += len(indices)
    session.flush()  # what this transaction has changed of the elements comes before
    rows = [
        {"task_id": array.task_id, "index": index, "attempt_id": attempt.id, "place": place}
        for place, index in enumerate(indices, start=first)
    ]
    made = insert(TaskElement).values([{**row, "state": TaskState.STARTING} for row in rows])
    taken = made.excluded
    again: dict[str, Any] = {  # Any: columns by name
        "state": taken.state, "attempt_id": taken.attempt_id, "place": taken.place, "due_at": None, "end": None,
        "exit_code": None, "signal": None, "log_from": None, "log_to": None, "started_at": None, "ended_at": None,
    }  # fmt: skip
    wanted = made.on_conflict_do_update(index_elements=["task_id", "index"], set_=again)
    tries = {
        row.element: row.tries
        for row in session.execute(wanted.returning(TaskElement.index.label("element"), TaskElement.tries))
    }
    return [ElementRun(row["place"], row["index"], tries[row["index"]] + 1) for row in rows]


def _return_all(session: Session, task: Task, array: TaskArray, attempt: TaskAttempt, end: AttemptEnd) -> bool:
    """Whether any element has run in this attempt."""
    query = select(TaskElement).where(TaskElement.attempt_id == attempt.id, TaskElement.state.in_(_WITH_WORKER))
    elements = session.scalars(query.order_by(TaskElement.index)).all()
    unstarted = [element for element in elements if element.state == TaskState.STARTING]
    _put_back(array, unstarted, end)
    running = [element for element in elements if element.state == TaskState.RUNNING]
    now, retry = utc_now(), _retry_of(task)
    if _did_all(attempt) and end is AttemptEnd.EXITED:
        end = AttemptEnd.HOST_LOST  # the worker says that it is done, and nobody knows what became of these
    for element in running:
        element.end, element.ended_at = end, now
        if end is AttemptEnd.CANCELLED:
            element.state = TaskState.CANCELLED
        else:
            _conclude(session, array, element, end, retry, now)
    return bool(running) or attempt.elements_ended > 0


def _put_back(array: TaskArray, elements: Sequence[TaskElement], end: AttemptEnd) -> None:
    """What never started has not been tried."""
    if end is AttemptEnd.CANCELLED:
        for element in elements:
            element.state = TaskState.CANCELLED
        return
    for element in elements:
        element.state = TaskState.QUEUED
    indices = [element.index for element in elements]
    array.pending = ranges.to_text(ranges.put(ranges.from_text(array.pending), indices))


def _look_at(session: Session, task: Task, array: TaskArray) -> None:
    """Make the array due when there is something for the controller: an end, a pause, workers with nothing to do."""
    session.flush()
    due = None
    if arrays.has_ended(array) or not array.pending:
        due = utc_now()
    elif array.waiting:
        query = select(func.min(TaskElement.due_at)).where(TaskElement.task_id == array.task_id)
        due = session.scalar(query)
    if due is not None and (task.due_at is None or due < task.due_at):
        task.due_at = due
        notify(session)


def _retry_of(task: Task) -> Retry:
    return Retry.model_validate(task.spec.get("retry", {}))


def _within(number: int | None, low: int, high: int) -> int | None:
    return number if number is not None and low <= number <= high else None


def _moment(at_ms: int, now: datetime) -> datetime:
    return from_ms(min(max(at_ms, 0), to_ms(now)))
