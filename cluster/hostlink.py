"""Typed host operations for the API: HTTP on a Unix socket, carried over Ray to the host's agent.

`POST /v1/hosts/{host_uid}/{operation}`, JSON in, the daemon's status and JSON out. Leader and standby serve it alike.
`POST /v1/plan` asks the leader's engine when a request would start (`scheduler.plan_protocol`).
"""

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cluster import metrics
from cluster.agents import Agents
from cluster.plan_desk import NotLeadingError, PlanDesk
from scheduler.plan_protocol import PlanAnswer, PlanQuestion
from scheduler.ports import HostUnreachableError

log = logging.getLogger(__name__)

_CONCURRENCY = 64
_QUEUE = 256
_BODY_BYTES = 2**20
_SESSIONS = "exec_"  # operations that mostly wait for somebody to type: nothing else waits behind them
_DEFAULT_S = 20.0
_LONGEST_S = 60.0
_MARGIN_S = 15.0
Endpoint = Callable[[Request], Awaitable[Response]]

_QUESTION, _ANSWER = TypeAdapter(PlanQuestion), TypeAdapter(PlanAnswer)
_NAME = re.compile(r"[a-z_]{1,40}")


def timeout_for(body: Mapping[str, Any]) -> float:
    """How long to wait: an operation that stops a container says itself how much grace it gives."""
    arguments = body.get("arguments")
    named = arguments.get("timeout") if isinstance(arguments, Mapping) else None
    grace = max((value for value in (named, body.get("grace_s")) if isinstance(value, int | float)), default=0)
    return min(max(_DEFAULT_S, grace + _MARGIN_S), _LONGEST_S)


def application(agents: Agents, desk: PlanDesk) -> Starlette:
    return Starlette(
        routes=[
            Route("/health", _health),
            Route("/metrics", _exposition),
            Route("/v1/plan", _planning(desk), methods=["POST"]),
            Route("/v1/hosts/{host_uid}/{operation}", _operating(agents), methods=["POST"]),
        ]
    )


def _operating(agents: Agents) -> Endpoint:
    calls, sessions = anyio.CapacityLimiter(_CONCURRENCY), anyio.CapacityLimiter(_CONCURRENCY)

    async def operate(request: Request) -> Response:
        host_uid, operation = request.path_params["host_uid"], request.path_params["operation"]
        limiter = sessions if operation.startswith(_SESSIONS) else calls
        if limiter.statistics().tasks_waiting >= _QUEUE:
            return _problem(503, "overloaded", "too many host operations at once; try again")
        if _too_large(request):
            return _TOO_LARGE
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict) or not _NAME.fullmatch(operation):
            return _problem(400, "bad_request", "the operation is a name, the body a JSON object")

        def call() -> JSONResponse:
            try:
                answer = agents.call(host_uid, operation, body, timeout_s=timeout_for(body))
            except HostUnreachableError as error:
                return _problem(503, "host_unreachable", str(error))
            return JSONResponse(answer.body, status_code=answer.status)

        return await anyio.to_thread.run_sync(call, limiter=limiter)

    return operate


def _planning(desk: PlanDesk) -> Endpoint:
    limiter = anyio.CapacityLimiter(1)  # each question holds up the scheduling loop for a moment

    async def plan(request: Request) -> Response:
        if _too_large(request):
            return _TOO_LARGE
        try:
            question = _QUESTION.validate_json(await request.body())
        except ValidationError as error:
            return _problem(400, "bad_request", str(error)[:500])
        try:
            answer = await anyio.to_thread.run_sync(desk.ask, question, limiter=limiter)
        except NotLeadingError as error:
            return _problem(503, "not_leading", str(error))
        return Response(_ANSWER.dump_json(answer), media_type="application/json")

    return plan


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _exposition(_: Request) -> Response:
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)


def _too_large(request: Request) -> bool:
    return int(request.headers.get("content-length", _BODY_BYTES + 1)) > _BODY_BYTES


def _problem(status: int, code: str, detail: str) -> JSONResponse:
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


_TOO_LARGE = _problem(413, "too_large", "the body has a length, of at most 1 MiB")


class Hostlink:
    """The server, in a thread of its own."""

    def __init__(self, agents: Agents, desk: PlanDesk, path: Path) -> None:
        self._path = path
        self._socket = _bind(path)
        config = uvicorn.Config(application(agents, desk), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="hostlink", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        self._server.should_exit = True
        self._thread.join(timeout_s)
        self._socket.close()


def _bind(path: Path) -> socket.socket:
    """Bind beside and rename: a successor takes the path over without a moment in which nobody has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(temporary))
    temporary.chmod(0o600)
    listener.listen(_QUEUE)
    temporary.replace(path)
    return listener
