"""Arrays: a task whose elements are run by workers, which are tasks of its own that nobody else sees.

A worker has an allocation and one attempt, in which it takes elements until there are none left. So the scheduler, the
hosts, the bill and the logs know nothing of arrays. Locks are taken in the order allocation, worker, attempt, array.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.ids import new_uid
from api.tasks import ranges
from api.tasks.spec import TaskSpec
from api.tasks.tables import Task, TaskArray, TaskElement, TaskEvent
from api.tasks.transitions import move, wake_children
from scheduler.states import TASK, TaskState

AT_ONCE = 8
"""Workers of an array that does not say how many."""
MOST_WORKERS = 64
"""Whatever an array says: its workers pass a full queue."""
_BUSY = (TaskState.STARTING, TaskState.RUNNING, TaskState.STOPPING)


def is_array(task: Task) -> bool:
    return task.spec.get("array") is not None


def make(session: Session, task: Task, spec: TaskSpec) -> None:
    """What an array has beside its row, which is in the database."""
    elements = spec.elements
    assert elements is not None
    total = len(elements)
    lanes = min(elements.at_once or AT_ONCE, total, MOST_WORKERS)
    session.add(TaskArray(task_id=task.id, total=total, pending=ranges.to_text(elements.ranges), lanes=lanes))
    task.due_at = None if task.state == TaskState.BLOCKED else utc_now()


def new_worker(session: Session, task: Task, *, actor: str) -> Task:
    """The next one of an array, to be queued. The caller has locked the array."""
    worker = Task(
        uid=new_uid(),
        customer_id=task.customer_id,
        workspace_id=task.workspace_id,
        user_id=task.user_id,
        name=task.name,
        array_id=task.id,
        spec=_of_worker(task.spec),
        image_id=task.image_id,
        working_dir=task.working_dir,
        more=task.more,
        state=TaskState.QUEUED,
        attempts=0,
        retries=0,
        due_at=utc_now(),
    )
    session.add(worker)
    session.flush()
    session.add(TaskEvent(task_id=worker.id, actor=actor, to_state=worker.state, reason=f"works for task {task.uid}"))
    return worker


def advance(session: Session, task_id: int, *, actor: str) -> None:
    """Lead an array that is queued or runs as far as what has come about takes it."""
    _drop_unneeded(session, task_id)
    task, array = lock(session, task_id)
    if not TASK[TaskState(task.state)]:
        task.due_at = None
        return
    workers = _open_workers(session, task)
    _follow(session, task, workers, actor=actor)
    task.due_at = None
    if not workers and _is_over(task, array):
        _end(session, task, array, actor=actor)
        wake_children(session, [task])
    elif task.cancelled_at is None:
        now = utc_now()
        _wake(session, array, now)
        _add_workers(session, task, array, workers, now, actor=actor)
        task.due_at = _due(session, array, now)


def number_attempt(session: Session, task_id: int) -> int:
    """Of the next attempt of its workers, as they begin."""
    task, _ = lock(session, task_id)
    task.attempts += 1
    return task.attempts


def lock(session: Session, task_id: int) -> tuple[Task, TaskArray]:
    session.flush()
    task = session.get_one(Task, task_id, with_for_update=True, populate_existing=True)
    return task, session.get_one(TaskArray, task_id, populate_existing=True)


def remaining(array: TaskArray) -> int:
    """Elements that no worker has and that have not ended."""
    return ranges.count(ranges.from_text(array.pending)) + array.waiting


def has_ended(array: TaskArray) -> bool:
    """All its elements have."""
    return array.succeeded + array.failed == array.total


def _of_worker(spec: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    """A worker is not tried again: the array gets another one, if it still needs one."""
    return {key: value for key, value in spec.items() if key not in ("array", "depends_on")} | {"retry": {"on": []}}


def _drop_unneeded(session: Session, task_id: int) -> None:
    """Ask for the end of workers: of all if the array's is asked for, of those that wait if nothing is left for them.

    Before the array is locked: it comes after its workers.
    """
    task, array = session.get_one(Task, task_id), session.get_one(TaskArray, task_id)
    unneeded = update(Task).where(Task.array_id == task_id, Task.ended_at.is_(None), Task.cancelled_at.is_(None))
    if task.cancelled_at is None and remaining(array):
        return
    if task.cancelled_at is None:
        unneeded = unneeded.where(Task.state == TaskState.QUEUED)
    now = utc_now()
    detail = task.detail if task.cancelled_at is not None else "Nothing was left for it to do."
    session.execute(unneeded.values(cancelled_at=now, due_at=now, detail=detail))


def _open_workers(session: Session, task: Task) -> list[TaskState]:
    query = select(Task.state).where(Task.array_id == task.id, Task.ended_at.is_(None))
    return [TaskState(state) for state in session.scalars(query)]


def _follow(session: Session, task: Task, workers: list[TaskState], *, actor: str) -> None:
    """It starts with its first worker, and runs with the first that does. It stays so when they have to give way."""
    began = select(func.min(Task.started_at)).where(Task.array_id == task.id)
    started_at = session.scalar(began)
    if task.state == TaskState.QUEUED and (started_at is not None or any(state in _BUSY for state in workers)):
        move(session, task, TaskState.STARTING, actor=actor)
    if task.state == TaskState.STARTING and started_at is not None:
        move(session, task, TaskState.RUNNING, actor=actor)
        task.started_at = started_at


def _is_over(task: Task, array: TaskArray) -> bool:
    return task.cancelled_at is not None or has_ended(array) or array.lanes <= 0


def _end(session: Session, task: Task, array: TaskArray, *, actor: str) -> None:
    if has_ended(array):
        state = TaskState.FAILED if array.failed else TaskState.SUCCEEDED
        detail = f"{array.failed} of {array.total} elements failed." if array.failed else ""
    elif task.cancelled_at is not None:
        state, detail = TaskState.CANCELLED, task.detail or "It was cancelled."
    else:
        state, detail = TaskState.FAILED, f"{remaining(array)} of {array.total} elements did not run. {array.setback}"
    if task.state != TaskState.QUEUED or state is TaskState.SUCCEEDED:
        if task.state == TaskState.QUEUED:
            move(session, task, TaskState.STARTING, actor=actor)
        move(session, task, TaskState.STOPPING, actor=actor, detail=detail)
    move(session, task, state, actor=actor, detail=detail)


def _wake(session: Session, array: TaskArray, now: datetime) -> None:
    """Elements whose pause after an error is over may be handed out."""
    again = (
        update(TaskElement)
        .where(TaskElement.task_id == array.task_id, TaskElement.due_at <= now)
        .values(due_at=None)
        .returning(TaskElement.index)
    )
    indices = session.scalars(again).all() if array.waiting else []
    if indices:
        array.pending = ranges.to_text(ranges.put(ranges.from_text(array.pending), indices))
        array.waiting -= len(indices)


def _add_workers(
    session: Session, task: Task, array: TaskArray, workers: list[TaskState], now: datetime, *, actor: str
) -> None:
    if array.rests_until is not None and array.rests_until > now:
        return
    array.rests_until = None
    waiting = sum(state is TaskState.QUEUED for state in workers)
    pending = ranges.count(ranges.from_text(array.pending))
    for _ in range(min(array.lanes - len(workers), pending - waiting)):
        new_worker(session, task, actor=actor)


def _due(session: Session, array: TaskArray, now: datetime) -> datetime | None:
    """When the array has to be looked at again, if nothing comes about before."""
    moments = [array.rests_until] if array.rests_until is not None else []
    if array.waiting:
        query = select(func.min(TaskElement.due_at)).where(TaskElement.task_id == array.task_id)
        moments += [due for due in [session.scalar(query)] if due is not None]
    return min(moments, default=None)


def rest(array: TaskArray, wait_s: int) -> None:
    """No new worker for so long."""
    array.rests_until = utc_now() + timedelta(seconds=wait_s)
