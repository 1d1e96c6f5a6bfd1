"""Tasks as others see them."""

from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from api.environments.schemas import DeviceOut, WaitOut
from api.tasks import repository
from api.tasks.repository import Loaded
from api.tasks.schemas import (
    AdminTaskOut,
    AttemptOut,
    DependencyOut,
    ProgressOut,
    TaskDetail,
    TaskEventOut,
    TaskOut,
)
from api.tasks.service import retried_from
from api.tasks.spec import TaskSpec
from api.tasks.tables import Task, TaskEvent
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
    waits_to_be_queued = task.state == TaskState.QUEUED and allocation is None
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
        "progress": ProgressOut(**task.progress) if task.progress is not None else None,
        "host": loaded.host if holds else None,
        "wait": WaitOut.of(allocation.wait_reason) if _waits(loaded) and allocation is not None else None,
        "due_at": task.due_at if waits_to_be_queued else None,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
    }


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
