"""A platform that speaks of tasks as the real one does, on a port of this machine, with states and faults as tests ask.

Each answer about a task is the next of its `steps`; the last one stays.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

Json = dict[str, Any]
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
_FILTERS = ("name", "state")
TASKS = "/api/v1/customer/tasks"
WAIT = {"code": "no_room", "detail": "No host has 2 free GPUs.", "position": 3, "eta": None, "eta_basis": "unknown"}


def task(number: int, name: str, **values: Any) -> Json:
    made = {"id": f"{number:08x}-0000-7000-8000-000000000000", "name": name, "created_at": AT.isoformat()}
    return {**made, "state": "queued", "attempts": 0, "detail": "", **values}


def attempt(number: int, end: str | None = None, **values: Any) -> Json:
    return {"number": number, "state": "ended" if end else "running", "end": end, "host": "sim-1", **values}


def written(*texts: tuple[str, str] | int) -> list[Json]:
    """Records of output: streams with texts; a number is of bytes that were dropped."""
    records: list[Json] = []
    position = 0
    for each in texts:
        if isinstance(each, int):
            records.append({"position": position, "at": AT.isoformat(), "stream": None, "dropped": each})
            position += each
        else:
            records.append({"position": position, "at": AT.isoformat(), "stream": each[0], "text": each[1]})
            position += len(each[1].encode())
    return records


def end_of(record: Json) -> int:
    return int(record["position"]) + (record.get("dropped") or len(record["text"].encode()))


@dataclass
class TaskPlatform:
    """`breaks`: after how many batches each connection of a follower is broken. `token`: the one that is good."""

    steps: dict[str, list[Json]] = field(default_factory=dict)
    output: dict[int, list[Json]] = field(default_factory=dict)
    others: dict[int, list[Json]] = field(default_factory=dict)  # output of other nodes than the first, by rank
    uploads: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    volumes: list[Json] = field(default_factory=list)
    elements: list[Json] = field(default_factory=list)  # of whichever array
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    breaks_with: int = 1012
    failures: list[int] = field(default_factory=list)  # statuses that uploads are answered with first
    refusal: Json | None = None
    executed: list[list[str]] = field(default_factory=list)
    exit_code: int = 0  # of what is executed
    token: str = "good"
    held: threading.Event = field(default_factory=threading.Event)  # followers wait at the end until it is set

    def __post_init__(self) -> None:
        self.held.set()

    def add(self, name: str, *steps: Json, number: int | None = None) -> str:
        made = task(number or len(self.steps) + 1, name)
        self.steps[made["id"]] = [{**made, **step} for step in steps or [{}]]
        return str(made["id"])

    def now(self, task_id: str) -> Json:
        steps = self.steps[task_id]
        return steps.pop(0) if len(steps) > 1 else steps[0]

    def submitted(self, body: Json) -> list[Json]:
        """Submitted tasks that a test has not laid out succeed at once."""
        known = {steps[0]["name"]: steps[0] for steps in self.steps.values()}
        for each in body["tasks"]:
            if each["task"]["name"] not in known:
                done = {"state": "succeeded", "attempts": 1, "attempt_list": [attempt(1, "exited", exit_code=0)]}
                known[each["task"]["name"]] = self.steps[self.add(each["task"]["name"], done)][0]
        return [known[each["task"]["name"]] for each in body["tasks"]]


def _problem(status: int, detail: str, **more: Any) -> JSONResponse:
    return JSONResponse({"status": status, "code": "some_code", "detail": detail, **more}, status)


def _page(items: Sequence[Json]) -> JSONResponse:
    return JSONResponse({"items": list(items), "next_cursor": None})


class _Endpoints:
    def __init__(self, platform: TaskPlatform) -> None:
        self.platform = platform

    async def refresh(self, request: Request) -> Response:
        self.platform.token = "fresh"
        return JSONResponse({"access_token": "fresh", "refresh_token": "r2", "expires_in": 900})

    async def tasks(self, request: Request) -> Response:
        if request.method == "POST":
            body = await request.json()
            self.platform.bodies.append(body)
            if self.platform.refusal is not None:
                return JSONResponse(self.platform.refusal, 422)
            return JSONResponse({"tasks": self.platform.submitted(body)}, 201)
        asked = request.query_params
        found = [self.platform.steps[each][0] for each in reversed(self.platform.steps)]
        return _page(
            [each for each in found if all(asked.get(key, each[key]) == each[key] for key in ("name", "state"))]
        )

    async def plan(self, request: Request) -> Response:
        self.platform.bodies.append(await request.json())
        if self.platform.refusal is not None:
            return JSONResponse(self.platform.refusal, 422)
        plan = {"when": "now", "wait": None, "eta": AT.isoformat(), "hosts": [], "costs": [], "limits": []}
        names = [each["task"]["name"] for each in self.platform.bodies[-1]["tasks"]]
        return JSONResponse(
            {"tasks": [{"name": name, "plan": plan, "ceiling_micro": 15_000_000, "currency": "EUR"} for name in names]}
        )

    async def one(self, request: Request) -> Response:
        task_id = request.path_params["task_id"]
        if task_id not in self.platform.steps:
            return _problem(404, "There is no such task.")
        return JSONResponse(self.platform.now(task_id))

    async def act(self, request: Request) -> Response:
        return JSONResponse(self.platform.steps[request.path_params["task_id"]][0])

    async def elements(self, request: Request) -> Response:
        state = request.query_params.get("state")
        return _page([each for each in self.platform.elements if state in (None, each["state"])])

    async def logs(self, request: Request) -> Response:
        element = request.query_params.get("element")
        if element is not None:
            (row,) = (each for each in self.platform.elements if each["index"] == int(element))
            return JSONResponse(_batch(row["attempt"], self.platform.output[row["attempt"]], 0) | {"ended": True})
        number, position = int(request.query_params.get("attempt", "1")), int(request.query_params["position"])
        records = [each for each in self._written(number, request.query_params) if each["position"] >= position][:2]
        return JSONResponse(_batch(number, records, position))

    async def follow(self, socket: WebSocket) -> None:
        if not await self._allowed(socket):
            return
        newest = max(self.platform.output, default=1)
        number, position = int(socket.query_params.get("attempt", newest)), int(socket.query_params["position"])
        if number not in self.platform.output:
            await socket.send_denial_response(_problem(404, "There is no such attempt."))
            return
        await socket.accept()
        left = self.platform.breaks.pop(0) if self.platform.breaks else -1
        written = self._written(number, socket.query_params)
        for record in [each for each in written if each["position"] >= position]:
            if left == 0:
                await socket.close(self.platform.breaks_with)
                return
            await socket.send_text(json.dumps(_batch(number, [record], position)))
            left -= 1
        while not self.platform.held.is_set():
            await asyncio.sleep(0.01)
        await socket.close(1000)

    def _written(self, number: int, asked: Mapping[str, str]) -> list[Json]:
        rank = int(asked.get("rank", "0"))
        return self.platform.others[rank] if rank else self.platform.output[number]

    async def execute(self, socket: WebSocket) -> None:
        """`cat` on both streams, which also tells of its terminal; Ctrl-C ends it, and `gone` the connection."""
        with suppress(WebSocketDisconnect):
            await self._execute(socket)

    async def _execute(self, socket: WebSocket) -> None:
        if not await self._allowed(socket):
            return
        if self.platform.refusal is not None:
            await socket.send_denial_response(JSONResponse(self.platform.refusal, self.platform.refusal["status"]))
            return
        await socket.accept()
        command = json.loads((await socket.receive_bytes())[1:])["command"]
        self.platform.executed.append(command)
        if command[0] != "cat":
            await socket.send_bytes(b"\3" + json.dumps({"error": {"code": "some_code", "detail": command[0]}}).encode())
            await socket.close(4409 if command[0] == "refuse" else 1012)
            return
        await socket.send_bytes(b"\3{}")
        while (frame := await socket.receive_bytes()) != b"\0":
            if frame[0] == 3:
                await socket.send_bytes(b"\1" + frame[1:])
                continue
            await socket.send_bytes(b"\1" + frame[1:])
            await socket.send_bytes(b"\2" + frame[1:])
            if b"\x03" in frame or b"gone" in frame:
                break
        if b"gone" in frame:
            await socket.close(1012)
            return
        await socket.send_bytes(b"\3" + json.dumps({"exit_code": self.platform.exit_code}).encode())
        await socket.close(1000)

    async def _allowed(self, socket: WebSocket) -> bool:
        self.platform.asked.append(("WS", str(socket.query_params)))
        if socket.headers.get("authorization") == f"Bearer {self.platform.token}":
            return True
        await socket.send_denial_response(_problem(401, "Sign in."))
        return False

    async def upload(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if request.method == "HEAD":
            return Response(status_code=204 if digest in self.platform.uploads else 404)
        body = await request.body()
        assert hashlib.sha256(body).hexdigest() == digest and request.headers["content-type"] == "application/zip"
        if self.platform.failures:
            return _problem(self.platform.failures.pop(0), "Not now.")
        self.platform.uploads[digest] = body
        return Response(status_code=201)

    async def workspaces(self, request: Request) -> Response:
        return _page([{"name": "other", "is_default": False}, {"name": "the lab", "is_default": True}])

    async def secrets(self, request: Request) -> Response:
        times = {"created_at": AT.isoformat(), "updated_at": AT.isoformat()}
        name = request.path_params.get("name")
        if name is None:
            return _page([{"name": each, **times} for each in self.platform.secrets])
        if request.method == "DELETE":
            del self.platform.secrets[name]
            return Response(status_code=204)
        self.platform.secrets[name] = (await request.json())["value"]
        return JSONResponse({"name": name, **times})

    async def all_volumes(self, request: Request) -> Response:
        if request.method == "POST":
            self.platform.volumes.append({"id": "v1", "created_at": AT.isoformat(), **await request.json()})
            return JSONResponse(self.platform.volumes[-1], 201)
        return _page(self.platform.volumes)

    async def volume(self, request: Request) -> Response:
        self.platform.volumes.clear()
        return Response(status_code=204)


def _batch(number: int, records: Sequence[Json], position: int) -> Json:
    following = end_of(records[-1]) if records else position
    return {"attempt": number, "records": list(records), "next_position": following, "ended": False}


def _application(platform: TaskPlatform) -> Starlette:
    ends = _Endpoints(platform)
    customer = "/api/v1/customer"
    secrets = f"{customer}/workspaces/{{workspace}}/secrets"

    async def checked(request: Request, call_next: RequestResponseEndpoint) -> Response:
        platform.asked.append((request.method, request.url.path))
        signed = request.headers.get("authorization") == f"Bearer {platform.token}"
        if not signed and "/auth/" not in request.url.path:
            return _problem(401, "Sign in.")
        return await call_next(request)

    return Starlette(
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=checked)],
        routes=[
            Route("/api/v1/auth/refresh", ends.refresh, methods=["POST"]),
            Route(TASKS, ends.tasks, methods=["GET", "POST"]),
            Route(f"{TASKS}/plan", ends.plan, methods=["POST"]),
            Route(f"{TASKS}/{{task_id}}", ends.one),
            Route(f"{TASKS}/{{task_id}}/cancel", ends.act, methods=["POST"]),
            Route(f"{TASKS}/{{task_id}}/retry", ends.act, methods=["POST"]),
            Route(f"{TASKS}/{{task_id}}/elements", ends.elements),
            Route(f"{TASKS}/{{task_id}}/logs", ends.logs),
            WebSocketRoute(f"{TASKS}/{{task_id}}/logs/follow", ends.follow),
            WebSocketRoute(f"{TASKS}/{{task_id}}/exec", ends.execute),
            Route(f"{customer}/uploads/{{digest}}", ends.upload, methods=["HEAD", "PUT"]),
            Route(f"{customer}/workspaces", ends.workspaces),
            Route(secrets, ends.secrets),
            Route(f"{secrets}/{{name}}", ends.secrets, methods=["PUT", "DELETE"]),
            Route(f"{customer}/volumes", ends.all_volumes, methods=["GET", "POST"]),
            Route(f"{customer}/volumes/{{volume_id}}", ends.volume, methods=["DELETE"]),
        ],
    )


@contextmanager
def served(platform: TaskPlatform, port: int = 0) -> Iterator[int]:
    """The platform on a port, a free one by default, until the end of the context."""
    with serving(_application(platform), port) as found:
        yield found
        platform.held.set()


@contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[int]:
    """An application on a port of this machine, with real connections."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.01)
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
