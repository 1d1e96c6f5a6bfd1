"""Tasks as others see them."""

from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.environments.schemas import DeviceOut, WaitOut
from api.tasks import repository
from api.tasks.arrays import remaining
from api.tasks.repository import Loaded
from api.tasks.schemas import (
    AdminTaskOut,
    AttemptOut,
    DependencyOut,
    ElementOut,
    ElementsOut,
    ProgressOut,
    TaskDetail,
    TaskEventOut,
    TaskOut,
)
from api.tasks.service import retried_from
from api.tasks.settling import to_be_queued
from api.tasks.spec import TaskSpec
from api.tasks.tables import Task, TaskArray, TaskEvent
from scheduler.states import AllocationState, AttemptEnd, AttemptState, TaskState

_HOLDS = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)


def task_out(loaded: Loaded) -> TaskOut:
    return TaskOut(**_fields(loaded))


def admin_out(loaded: Loaded) -> AdminTaskOut:
    return AdminTaskOut(**_fields(loaded), customer=loaded.customer)


def detail(session: Session, task: Task) -> TaskDetail:
    (loaded,) = repository.load(session, [task])
    rows = repository.attempts_of(session, task)
    devices = repository.devices_of(session, [row.TaskAttempt for row in rows])
    return TaskDetail(
        **_fields(loaded),
        spec=task.spec,
        working_dir=task.working_dir,
        retried_from=retried_from(task),
        allocation_id=loaded.allocation.uid if loaded.allocation is not None else None,
        attempt_list=[_attempt(row, devices.get(row.TaskAttempt.id, [])) for row in rows],
        dependencies=[DependencyOut(**row._mapping) for row in repository.dependencies_of(session, task)],
        events=[_event(event) for event in repository.events_of(session, task)],
    )


def _fields(loaded: Loaded) -> dict[str, Any]:  # Any: fields of `TaskOut`
    task, allocation = loaded.task, loaded.allocation
    spec = TaskSpec.model_validate(task.spec)
    holds = allocation is not None and allocation.state in _HOLDS
    waits_to_be_queued = to_be_queued(task)
    return {
        "id": task.uid,
        "name": task.name,
        "owner": loaded.username,
        "workspace": loaded.workspace,
        "image": loaded.image,
        "submission_id": task.submission_id,
        "state": TaskState(task.state),
        "detail": task.detail,
        "gpus": spec.resources.whole_gpus,
        "gpu_milli": spec.resources.gpu_milli,
        "nodes": spec.nodes,
        "priority": spec.priority,
        "attempts": task.attempts,
        "exit_code": task.exit_code,
        "progress": ProgressOut(**progress) if (progress := _progress(loaded)) is not None else None,
        "elements": _elements(loaded.array) if loaded.array is not None else None,
        "host": loaded.host if holds else None,
        "wait": WaitOut.of(allocation.wait_reason) if _waits(loaded) and allocation is not None else None,
        "due_at": task.due_at if waits_to_be_queued else None,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
    }


def _progress(loaded: Loaded) -> dict[str, Any] | None:  # Any: as `Task.progress`
    """Of an array, how many of its elements have ended."""
    array = loaded.array
    if array is None:
        return loaded.task.progress
    done = array.succeeded + array.failed
    at = loaded.task.ended_at or utc_now()
    return {"fraction": done / array.total, "line": f"{done} of {array.total} elements", "at": at} if done else None


def _elements(array: TaskArray) -> ElementsOut:
    pending, ended = remaining(array), array.succeeded + array.failed
    return ElementsOut(
        total=array.total,
        pending=pending,
        running=array.total - pending - ended,
        succeeded=array.succeeded,
        failed=array.failed,
    )


def element_out(row: Row[Any]) -> ElementOut:
    element = row.TaskElement
    return ElementOut(
        index=element.index,
        state=TaskState(element.state),
        tries=element.tries,
        attempt=row.attempt,
        end=AttemptEnd(element.end) if element.end is not None else None,
        exit_code=element.exit_code,
        signal=element.signal,
        log_from=element.log_from,
        log_to=element.log_to,
        started_at=element.started_at,
        ended_at=element.ended_at,
        due_at=element.due_at,
    )


def _waits(loaded: Loaded) -> bool:
    return loaded.allocation is not None and loaded.allocation.state == AllocationState.QUEUED


def _attempt(row: Row[Any], devices: list[DeviceOut]) -> AttemptOut:
    attempt = row.TaskAttempt
    return AttemptOut(
        id=attempt.uid,
        number=attempt.number,
        state=AttemptState(attempt.state),
        phase=attempt.phase,
        allocation_id=row.allocation_uid,
        host=row.host,
        devices=devices,
        end=AttemptEnd(attempt.end) if attempt.end is not None else None,
        exit_code=attempt.exit_code,
        signal=attempt.signal,
        limit_hit=attempt.limit_hit,
        detail=attempt.detail,
        notice=attempt.notice,
        started_at=attempt.started_at,
        running_at=attempt.running_at,
        stopping_at=attempt.stopping_at,
        ended_at=attempt.ended_at,
    )


def _event(event: TaskEvent) -> TaskEventOut:
    return TaskEventOut(
        at=event.at,
        actor=event.actor,
        from_state=TaskState(event.from_state) if event.from_state else None,
        to_state=TaskState(event.to_state),
        reason=event.reason,
    )
