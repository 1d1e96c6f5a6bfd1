"""Commands in tasks over the WebSocket: who may, when, what is kept of it, and how each session ends."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from api.app import API
from api.audit.tables import AuditEntry
from api.db import Database
from api.hostlink import HostUnreachable
from api.logs import connection
from api.settings import Settings
from api.tasks import exec_endpoints, exec_relay
from api.tasks.exec_frames import MOST_COMMAND
from api.tasks.exec_relay import ExecHosts
from api.tasks.tables import Task, TaskAttempt
from scheduler.states import AttemptState, TaskState
from tests.db.conftest import Person, Tenant
from tests.db.log_world import LogWorld

STDIN, STDOUT, STDERR, CONTROL = b"\0", b"\1", b"\2", b"\3"


class CatHost:
    """Stands for the way to a host on which every command is `cat`: what is written comes back, on both streams."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.typed, self.ended = b"", False
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.away = False
        self.took = 5  # bytes at a time
        self.exit_code: int | None = 3
        self.news = threading.Condition()

    def call(self, host_uid: str, operation: str, body: Any, *, timeout_s: float = 30.0) -> tuple[int, Any]:
        with self.news:
            self.calls.append((host_uid, operation, dict(body)))
            self.news.notify_all()
        if self.away:
            raise HostUnreachable("The host does not answer now.")
        if self.refusal is not None:
            return self.refusal
        answer = getattr(self, operation)(body)
        return 200, answer

    def exec_start(self, body: Any) -> Any:
        return {"session": "s1"}

    def exec_write(self, body: Any) -> Any:
        data = base64.b64decode(body.get("data", ""))[: self.took]
        with self.news:
            self.typed += data
            self.ended = self.ended or body.get("end", False)
            self.news.notify_all()
        return {"taken": len(data)}

    def exec_read(self, body: Any) -> Any:
        with self.news:
            self.news.wait_for(lambda: self.typed or self.ended, timeout=0.1)
            text, self.typed = base64.b64encode(self.typed).decode(), b""
            over = self.ended and not text
            return {"stdout": text, "stderr": text, "over": over, "exit_code": self.exit_code if over else None}

    def exec_resize(self, body: Any) -> Any:
        return {}

    def exec_end(self, body: Any) -> Any:
        return {}

    def close(self) -> None:
        pass

    def asked(self, operation: str) -> list[dict[str, Any]]:
        return [body for _, name, body in self.calls if name == operation]

    def wait_for_end(self) -> None:
        with self.news:
            assert self.news.wait_for(lambda: bool(self.asked("exec_end")), timeout=10)


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> LogWorld:
    return LogWorld(database, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


@pytest.fixture
def host(app: FastAPI) -> Iterator[CatHost]:
    host = CatHost()
    app.state.exec_hosts.close()
    app.state.exec_hosts = ExecHosts(host)  # type: ignore[arg-type] # stands for a Hostlink
    yield host


def running(world: LogWorld, *, user: Any = None) -> Task:
    task = world.task(user=user)
    attempt, _ = world.attempt(task)

    def work(session: Any) -> None:
        session.execute(update(TaskAttempt).where(TaskAttempt.id == attempt.id).values(state=AttemptState.RUNNING))
        values = {"state": TaskState.RUNNING, "allocation_id": attempt.allocation_id}
        session.execute(update(Task).where(Task.id == task.id).values(**values))

    world.database.transact(work)
    return task


def connect(client: TestClient, who: Person | None, task: Task, query: str = "") -> WebSocketTestSession:
    address = f"{API}/customer/tasks/{task.uid}/exec{query}"
    return client.websocket_connect(address, headers=dict(who.headers) if who else {})


def denied(client: TestClient, who: Person | None, task: Task, query: str = "") -> tuple[int, str]:
    with pytest.raises(WebSocketDenialResponse) as denial, connect(client, who, task, query):
        pass  # it is not let in
    return denial.value.status_code, denial.value.json()["code"]


def told(*command: str) -> bytes:
    return CONTROL + json.dumps({"command": command}).encode()


def to_close(socket: WebSocketTestSession) -> tuple[dict[bytes, bytes], list[Any], int]:
    """What came by channels, what of it was control, and the code of closing."""
    streams, control = {STDOUT: b"", STDERR: b""}, []
    while True:
        try:
            frame = socket.receive_bytes()
        except WebSocketDisconnect as closed:
            return streams, control, closed.code
        if frame[:1] != CONTROL:
            streams[frame[:1]] += frame[1:]
        elif frame[1:] != b"{}":
            control.append(json.loads(frame[1:]))


def test_input_output_and_exit_code(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost, database: Database
) -> None:
    task = running(world)
    with connect(app_client, tenant.owner, task, "?tty=1&rows=40&cols=120") as socket:
        socket.send_bytes(told("sh", "-c", "secret words"))
        socket.send_bytes(STDIN + b"hello world")
        socket.send_bytes(CONTROL + b'{"rows": 10, "cols": 20}')
        socket.send_bytes(STDIN)
        streams, control, code = to_close(socket)
    assert (streams[STDOUT], streams[STDERR]) == (b"hello world", b"hello world")
    assert (control, code) == ([{"exit_code": 3}], connection.DONE)
    (started,) = host.asked("exec_start")
    assert started["command"] == ["sh", "-c", "secret words"] and started["generation"] == 1
    assert started["terminal"] == {"rows": 40, "columns": 120}
    assert host.asked("exec_resize") == [{"session": "s1", "rows": 10, "columns": 20}]
    assert {uid for uid, _, _ in host.calls} == {str(world.hosts[0].uid)}
    host.wait_for_end()
    with database.session() as session:
        (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.action == "task.exec"))
        assert (entry.target, entry.actor) == (f"task:{task.uid}", f"user:{tenant.owner.user.uid}")
        assert entry.details == {"name": task.name, "command": "sh"}


def test_who_may(world: LogWorld, app_client: TestClient, tenant: Tenant, other_tenant: Tenant, host: CatHost) -> None:
    task = running(world)
    assert denied(app_client, None, task) == (401, "unauthenticated")
    assert denied(app_client, other_tenant.owner, task) == (404, "not_found")
    assert denied(app_client, tenant.member, task) == (404, "not_found")  # the owner's
    assert denied(app_client, tenant.owner, task, "?rank=1") == (404, "not_found")
    assert denied(app_client, tenant.owner, task, "?rows=0")[0] == 422
    assert host.calls == []


def test_only_while_it_runs(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost, database: Database
) -> None:
    assert denied(app_client, tenant.owner, world.task("waits")) == (409, "not_running")
    task = running(world)
    stopping = update(TaskAttempt).where(TaskAttempt.task_id == task.id).values(state="stopping", end="exited")
    database.transact(lambda session: session.execute(stopping))
    assert denied(app_client, tenant.owner, task) == (409, "not_running")
    assert host.calls == []


def test_not_in_an_array(world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost) -> None:
    task = running(world)

    def make_array(session: Any) -> None:
        row = session.get_one(Task, task.id)
        row.spec = {**row.spec, "array": "0-9"}

    world.database.transact(make_array)
    with pytest.raises(WebSocketDenialResponse) as denial, connect(app_client, tenant.owner, task):
        pass  # it is not let in
    problem = denial.value.json()
    assert (denial.value.status_code, problem["code"]) == (409, "is_array")
    assert "Submit one element as a task of its own" in problem["detail"]
    assert host.calls == []


@pytest.mark.parametrize(
    "first",
    [
        b"",
        STDIN + b"x",
        STDOUT + b"x",
        CONTROL + b"{}",
        CONTROL + b"{",
        told(),
        told(""),
        told("a\0b"),
        told("x" * MOST_COMMAND),
        told(*"x" * 1001),
        CONTROL + b'{"command": ["true"], "user": "root"}',
    ],
)
def test_a_first_message_that_is_no_command(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost, first: bytes
) -> None:
    with connect(app_client, tenant.owner, running(world)) as socket:
        socket.send_bytes(first)
        _, control, code = to_close(socket)
    assert (control[0]["error"]["code"], code) == ("bad_message", exec_relay.REFUSED)
    assert host.calls == []


def test_later_messages_that_are_none(world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost) -> None:
    task = running(world)
    for bad in (STDOUT + b"x", told("again"), CONTROL + b'{"rows": 0, "cols": 1}', b"\7"):
        with connect(app_client, tenant.owner, task) as socket:
            socket.send_bytes(told("cat"))
            socket.send_bytes(bad)
            _, control, code = to_close(socket)
        assert (control[0]["error"]["code"], code) == ("bad_message", exec_relay.REFUSED), bad
    assert len(host.asked("exec_end")) == 4


def test_no_command_in_time(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_endpoints, "FIRST_S", 0.05)
    with connect(app_client, tenant.owner, running(world)) as socket:
        _, control, code = to_close(socket)
    assert (control[0]["error"]["code"], code) == ("bad_message", exec_relay.REFUSED)


def test_who_leaves_ends_it(world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost) -> None:
    with connect(app_client, tenant.owner, running(world)) as socket:
        socket.send_bytes(told("cat"))
        socket.send_bytes(STDIN + b"x")
        assert socket.receive_bytes() in (STDOUT + b"x", CONTROL + b"{}")
    host.wait_for_end()


def test_who_leaves_ends_it_also_where_its_input_is_not_read(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost
) -> None:
    host.took = 0
    with connect(app_client, tenant.owner, running(world)) as socket:
        socket.send_bytes(told("cat"))
        socket.send_bytes(STDIN + b"x")
        assert socket.receive_bytes() == CONTROL + b"{}"
    host.wait_for_end()


def test_what_the_host_says_and_that_it_does_not(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost
) -> None:
    task = running(world)

    def ended(exit_code: int | None = None) -> tuple[Any, int]:
        with connect(app_client, tenant.owner, task) as socket:
            socket.send_bytes(told("cat"))
            socket.send_bytes(STDIN)
            _, control, code = to_close(socket)
        return control[-1]["error"]["code"], code

    host.exit_code = None
    assert ended() == ("task_ended", exec_relay.OVER)
    host.refusal = (409, {"code": "too_many_sessions", "detail": "too many"})
    assert ended() == ("too_many_sessions", exec_relay.OVER)
    host.refusal = (409, {"code": "lease_ended", "detail": "over"})
    assert ended() == ("task_ended", exec_relay.OVER)
    host.refusal = (424, {"code": "docker_error", "detail": "no such file"})
    assert ended() == ("unavailable", connection.AGAIN)
    host.refusal, host.away = None, True
    assert ended() == ("host_unreachable", connection.AGAIN)


def test_sessions_are_counted(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_relay, "_MOST_OF_CUSTOMER", 1)
    task = running(world)
    with connect(app_client, tenant.owner, task) as socket:
        assert denied(app_client, tenant.owner, task) == (429, "too_many_sessions")
        socket.send_bytes(told("cat"))
        socket.send_bytes(STDIN)
        assert to_close(socket)[2] == connection.DONE
    deadline_s = time.monotonic() + 10
    while True:  # the server's side of it ends a moment later
        try:
            with connect(app_client, tenant.owner, task):
                return
        except WebSocketDenialResponse:
            assert time.monotonic() < deadline_s


def test_a_key_needs_the_scope(
    world: LogWorld, app_client: TestClient, tenant: Tenant, host: CatHost, database: Database
) -> None:
    task = running(world)
    for scopes, status in ((["tasks:read"], 403), (["tasks:write"], None)):
        made = app_client.post(
            f"{API}/customer/api-keys", json={"name": scopes[0], "scopes": scopes}, headers=tenant.owner.headers
        )
        assert made.status_code == 201, made.text
        headers = {"Authorization": f"Bearer {made.json()['key']}"}
        address = f"{API}/customer/tasks/{task.uid}/exec"
        if status is None:
            with app_client.websocket_connect(address, headers=headers) as socket:
                socket.send_bytes(told("cat"))
                socket.send_bytes(STDIN)
                assert to_close(socket)[2] == connection.DONE
        else:
            with (
                pytest.raises(WebSocketDenialResponse) as denial,
                app_client.websocket_connect(address, headers=headers),
            ):
                pass
            assert denial.value.status_code == status
