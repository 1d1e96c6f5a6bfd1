"""Container operations for the Hub: one environment's own container, under its current lease, and no other."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.db import Database
from api.environments.repository import find_named
from api.environments.tables import Environment
from api.errors import Conflict, NotFound, Unprocessable
from api.hostlink import Hostlink
from api.machines.tables import Host
from scheduler.states import AllocationState

TIMEOUT_S = 60.0
MAX_STOP_S = 120
MAX_LOG_LINES = 10_000
MAX_ERROR = 500


class Operation(StrEnum):
    INSPECT_CONTAINER = "inspect_container"
    CREATE_CONTAINER = "create_container"
    START = "start"
    STOP = "stop"
    REMOVE_CONTAINER = "remove_container"
    INSPECT_IMAGE = "inspect_image"
    PORT = "port"
    LOGS = "logs"


class _NoArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _CreateArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    command: list[str] = Field(max_length=200)
    environment: dict[str, str] = Field(max_length=500)
    labels: dict[str, str] = Field(default_factory=dict, max_length=100)


class _StopArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timeout: int = Field(10, ge=0, le=MAX_STOP_S)


class _LogsArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tail: int = Field(20, ge=0, le=MAX_LOG_LINES)


_ARGUMENTS: Mapping[Operation, type[BaseModel]] = {
    Operation.CREATE_CONTAINER: _CreateArguments,
    Operation.STOP: _StopArguments,
    Operation.LOGS: _LogsArguments,
}


@dataclass(frozen=True, slots=True)
class Target:
    """An environment's container, as far as it may be named: by the lease under which it is."""

    environment_id: int
    host_uid: str
    allocation_uid: str
    generation: int


def find_target(database: Database, *, username: str, name: str) -> Target:
    """The container of one of the Hub's named servers.

    Raises:
        NotFound: there is no such environment.
        Conflict: `lease_ended`, it holds no host now.
    """
    with database.session() as session:
        return _target(session, username, name)


def call_container(
    database: Database, hostlink: Hostlink, target: Target, operation: Operation, checked: Mapping[str, Any]
) -> tuple[int, Any]:
    """Run the operation on the environment's host; the status and the JSON of its daemon's answer.

    Which container, image, devices and mounts are meant is the lease's business, so that none can be named here.
    `checked` are arguments that `check_arguments` let through.

    Raises:
        Conflict: `lease_ended`, it holds no host any more.
        api.hostlink.HostUnreachable
    """
    status, answer = hostlink.call(
        target.host_uid,
        "container",
        {
            "allocation_uid": target.allocation_uid,
            "generation": target.generation,
            "operation": operation,
            "arguments": dict(checked),
        },
        timeout_s=TIMEOUT_S + checked.get("timeout", 0),
    )
    if status == HTTPStatus.CONFLICT:
        raise Conflict("The lease has ended.", code="lease_ended")
    if status == HTTPStatus.FAILED_DEPENDENCY and operation in (Operation.CREATE_CONTAINER, Operation.START):
        database.transact(partial(_note_error, target=target, answer=answer))
    return status, answer


def check_arguments(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Raises:
        Unprocessable: the operation does not take such arguments.
    """
    try:
        return _ARGUMENTS.get(operation, _NoArguments).model_validate(arguments).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        raise Unprocessable(f"{operation}: {first['loc']}: {first['msg']}", code="validation") from error


def _target(session: Session, username: str, name: str) -> Target:
    environment = find_named(session, username=username, name=name)
    if environment is None:
        raise NotFound("There is no such environment.", code="no_such_environment")
    allocation = session.get(Allocation, environment.allocation_id) if environment.allocation_id else None
    if allocation is None or allocation.state != AllocationState.ACTIVE or allocation.host_id is None:
        raise Conflict("The environment holds no GPUs now.", code="lease_ended")
    host = session.get_one(Host, allocation.host_id)
    return Target(environment.id, str(host.uid), str(allocation.uid), allocation.generation)


def _note_error(session: Session, *, target: Target, answer: Any) -> None:  # Any: the daemon's JSON
    """Keep what Docker said: it explains a failed start better than the Hub can."""
    message = answer.get("docker_message") if isinstance(answer, dict) else None
    environment = session.get_one(Environment, target.environment_id, with_for_update=True)
    environment.last_error = str(message or "Docker refused to start its container.")[:MAX_ERROR]
