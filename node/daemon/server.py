"""The daemon's operations over its Unix socket: checked JSON in, JSON or a problem document out."""

import logging
from collections.abc import Callable
from typing import Annotated, Any

import docker
import requests
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.daemon.containers import BadArgumentsError
from node.daemon.ending import StillEndingError
from node.daemon.exec_sessions import NoSessionError, NotRunningError, TooManySessionsError
from node.daemon.host import Host
from node.daemon.leases import LeaseEndedError, StaleGenerationError
from node.daemon.networks import NoNetworkError
from node.daemon.volumes import ForeignVolumeError
from scheduler.host_protocol import MAX_BATCH, Lease

log = logging.getLogger(__name__)

_MAX_BODY = 8 * 2**20
_LEASE = TypeAdapter(Lease)
_CONFLICTS: dict[type[Exception], tuple[str, str]] = {
    StaleGenerationError: ("stale_generation", "the generation is not the lease's: nothing was changed"),
    LeaseEndedError: ("lease_ended", "the lease has ended, or was never here"),
    StillEndingError: ("still_ending", "it was told to end and has time left; ask again"),
    NotRunningError: ("not_running", "the task does not run here now"),
    TooManySessionsError: ("too_many_sessions", "too many commands are run in it, or on its host; end some first"),
    NoSessionError: ("no_session", "the session has ended"),
}

Uid = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _End(_Body):
    allocation_uid: Uid
    generation: Count
    grace_s: Annotated[float, Field(ge=0, le=3600)]
    reason: Annotated[str, Field(max_length=64)] = ""


class _Container(_Body):
    allocation_uid: Uid
    generation: Count
    operation: Annotated[str, Field(max_length=64)]
    arguments: dict[str, Any] = Field(default_factory=dict)


class _Read(_Body):
    limit: Annotated[int, Field(ge=1, le=MAX_BATCH)]


class _Acknowledge(_Body):
    boot_id: Uid
    through: Annotated[int, Field(ge=-1, lt=2**63)]


class _Volume(_Body):
    volume: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,200}$")]


class _Terminal(_Body):
    rows: Annotated[int, Field(ge=1, le=1000)]
    columns: Annotated[int, Field(ge=1, le=1000)]


class _ExecStart(_Body):
    allocation_uid: Uid
    generation: Count
    command: Annotated[list[Annotated[str, Field(pattern=r"^[^\x00]*$")]], Field(min_length=1, max_length=1000)]
    terminal: _Terminal | None = None


class _ExecWrite(_Body):
    session: Uid
    data: Annotated[str, Field(max_length=90_000)] = ""  # base64
    end: bool = False


class _ExecRead(_Body):
    session: Uid
    wait_ms: Annotated[int, Field(ge=0, le=5000)] = 0


class _ExecResize(_Terminal):
    session: Uid


class _ExecEnd(_Body):
    session: Uid


def make_app(host: Host) -> Starlette:
    operations: dict[str, Callable[[bytes], Any]] = {
        "health": lambda _: host.health(),
        "grant_lease": lambda body: host.grant_lease(_LEASE.validate_json(body)),
        "end_lease": lambda body: _dump(host.end_lease(**_parse(_End, body))),
        "container": lambda body: host.container(**_parse(_Container, body)),
        "spool_read": lambda body: _dump(host.spool_read(**_parse(_Read, body))),
        "spool_ack": lambda body: host.spool_ack(**_parse(_Acknowledge, body)),
        "delete_volume": lambda body: host.delete_volume(**_parse(_Volume, body)),
        "exec_start": lambda body: host.exec_start(**_parse(_ExecStart, body)),
        "exec_write": lambda body: host.exec_write(**_parse(_ExecWrite, body)),
        "exec_read": lambda body: _dump(host.exec_read(**_parse(_ExecRead, body))),
        "exec_resize": lambda body: host.exec_resize(**_parse(_ExecResize, body)),
        "exec_end": lambda body: host.exec_end(**_parse(_ExecEnd, body)),
    }

    async def endpoint(request: Request) -> Response:
        name = request.path_params["operation"]
        body = await request.body()
        if name not in operations:
            return _problem(404, "unknown_operation", f"there is no operation {name!r}")
        if len(body) > _MAX_BODY:
            return _problem(413, "too_large", "the body is too large")
        return await run_in_threadpool(_answer, name, operations[name], body)

    return Starlette(routes=[Route("/v1/{operation}", endpoint, methods=["POST"])])


def _answer(name: str, operation: Callable[[bytes], Any], body: bytes) -> Response:
    try:
        result = operation(body)
    except (ValidationError, BadArgumentsError) as error:
        return _problem(422, "validation", str(error)[:1000])
    except tuple(_CONFLICTS) as error:
        return _problem(409, *_CONFLICTS[type(error)])
    except ForeignVolumeError as error:
        return _problem(409, "foreign_volume", str(error))
    except NoNetworkError as error:
        return _problem(503, "no_network", str(error))
    except docker.errors.APIError as error:
        return _docker_problem(error.status_code or 500, str(error.explanation or error))
    except docker.errors.DockerException as error:
        return _docker_problem(500, str(error))
    except requests.RequestException as error:
        return _problem(503, "docker_unreachable", str(error)[:300])
    except Exception as error:
        log.exception("operation %s failed", name)
        return _problem(500, "internal", f"{type(error).__name__}: {error}"[:300])
    return JSONResponse({} if result is None else result)


def _docker_problem(status: int, message: str) -> JSONResponse:
    return _problem(424, "docker_error", message, docker_status=status, docker_message=message)


def _problem(status: int, code: str, detail: str, **more: object) -> JSONResponse:
    document = {"type": "about:blank", "status": status, "code": code, "detail": detail, **more}
    return JSONResponse(document, status_code=status, media_type="application/problem+json")


def _parse(model: type[_Body], body: bytes) -> dict[str, Any]:
    return model.model_validate_json(body or b"{}").model_dump()


def _dump(value: Any) -> Any:
    return TypeAdapter(type(value)).dump_python(value, mode="json")
