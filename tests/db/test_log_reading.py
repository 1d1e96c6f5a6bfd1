"""Output over HTTP: by position, by stream, to the end, and what is gone is told. Another tenant's is not there."""

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text, update
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from api.app import API
from api.db import Database
from api.logs import connection, documents, endpoints
from api.logs.reading import LATE
from api.logs.tables import LogChunk
from api.settings import Settings
from api.tasks.tables import Task, TaskAttempt
from scheduler.log_records import Stream
from scheduler.states import TaskState
from tests.db.conftest import Person, Tenant
from tests.db.log_world import LogWorld, written


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> LogWorld:
    return LogWorld(database, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


def path(task: Task, **query: Any) -> str:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    return f"{API}/customer/tasks/{task.uid}/logs?{asked}"


def read(client: TestClient, who: Person, task: Task, **query: Any) -> dict[str, Any]:
    answer = client.get(path(task, **query), headers=who.headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def read_all(client: TestClient, who: Person, task: Task, **query: Any) -> list[dict[str, Any]]:
    """Page after page."""
    records: list[dict[str, Any]] = []
    position = 0
    while True:
        page = read(client, who, task, position=position, **query)
        records += page["records"]
        if page["next_position"] == position:
            return records
        position = page["next_position"]


def text_of(records: list[dict[str, Any]]) -> str:
    return "".join(record.get("text", f"<{record.get('dropped')}>") for record in records)


def test_output_is_read_from_any_position(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    attempt, source = world.attempt(task)
    world.take(source, [*written(0, "one\n"), *written(4, "oh\n", stream=Stream.STDERR)])
    world.take(source, written(7, 5, "two\n"))
    whole = read(app_client, tenant.owner, task)
    assert [(r["position"], r["stream"], r.get("text"), r.get("dropped")) for r in whole["records"]] == [
        (0, "stdout", "one\n", None), (4, "stderr", "oh\n", None), (7, None, None, 5), (12, "stdout", "two\n", None),
    ]  # fmt: skip
    assert (whole["attempt"], whole["next_position"], whole["ended"]) == (1, 16, False)
    assert all(record["at"] == "2026-09-21T14:13:20.000Z" for record in whole["records"])
    for position in range(17):
        rest = read(app_client, tenant.owner, task, position=position)["records"]
        assert "".join(r.get("text", "." * r.get("dropped", 0)) for r in rest) == "one\noh\n.....two\n"[position:]
    assert read(app_client, tenant.owner, task, position=1000)["records"] == []
    assert text_of(read(app_client, tenant.owner, task, stream="stderr")["records"]) == "oh\n<5>"
    world.take(source, [], position=16, last=True)
    assert not read(app_client, tenant.owner, task, position=16)["ended"]  # the attempt has not
    world.end(attempt)
    assert read(app_client, tenant.owner, task)["ended"]
    assert not read(app_client, tenant.owner, task, limit=5)["ended"]


def test_pages_together_are_the_whole(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    _, source = world.attempt(task)
    expected, position = "", 0
    for number in range(30):
        part = f"{number} é€😀\n"
        world.take(source, written(position, *part))
        expected += part
        position += len(part.encode())
    for limit in (1, 7, 50, 1000):
        assert text_of(read_all(app_client, tenant.owner, task, limit=limit)) == expected


def test_what_was_dropped_is_told(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    world.settings = world.settings.model_copy(update={"log_limit_bytes": 500, "log_head_bytes": 150})
    task = world.task()
    _, source = world.attempt(task)
    for position in range(0, 1000, 100):
        world.take(source, written(position, "x" * 100))
    assert text_of(read_all(app_client, tenant.owner, task)) == "x" * 200 + "<600>" + "x" * 200
    assert text_of(read(app_client, tenant.owner, task, position=450)["records"]) == "<350>" + "x" * 200
    for found in list(world.objects.list("logs")):  # as after a loss of the store
        world.objects.delete(found.key)
    assert text_of(read_all(app_client, tenant.owner, task)) == "<100><100><600><100><100>"


def test_an_attempt_ends_with_its_last_chunk_or_its_host(
    world: LogWorld, app_client: TestClient, tenant: Tenant, database: Database
) -> None:
    for number, (end, whole, late, ended) in enumerate(
        [("exited", False, False, False), ("host_lost", False, False, True), ("exited", False, True, True)], 1
    ):
        task = world.task(f"t{number}")
        attempt, source = world.attempt(task)
        world.take(source, written(0, "some"), last=whole)
        world.end(attempt, end)
        if late:
            for table, column in (("task_attempts", "ended_at"), ("logs", "at")):
                assert not read(app_client, tenant.owner, task)["ended"], table
                sql = text(f"update {table} set {column} = {column} - make_interval(secs => :late)")
                database.transact(lambda s, sql=sql: s.execute(sql, {"late": LATE.total_seconds()}))
        assert read(app_client, tenant.owner, task)["ended"] is ended


def test_the_newest_attempt_is_meant_unless_one_is_named(
    world: LogWorld, app_client: TestClient, tenant: Tenant
) -> None:
    task = world.task()
    assert read(app_client, tenant.owner, task) == {"attempt": None, "records": [], "next_position": 0, "ended": False}
    for number in (1, 2):
        _, source = world.attempt(task, number)
        world.take(source, written(0, f"attempt {number}"))
    assert text_of(read(app_client, tenant.owner, task)["records"]) == "attempt 2"
    assert text_of(read(app_client, tenant.owner, task, attempt=1)["records"]) == "attempt 1"
    for query in ({"attempt": 3}, {"rank": 1}):
        assert app_client.get(path(task, **query), headers=tenant.owner.headers).status_code == 404


def test_only_those_who_see_the_task_see_its_output(
    world: LogWorld, app_client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    owners, members = world.task("owners"), world.task("members", user=tenant.member.user)
    for task in (owners, members):
        _, source = world.attempt(task)
        world.take(source, written(0, "secret"))
    allowed = {(tenant.owner, owners), (tenant.owner, members), (tenant.member, members)}
    for person in (tenant.owner, tenant.member, other_tenant.owner):
        for task in (owners, members):
            status = 200 if any(person is p and task is t for p, t in allowed) else 404
            assert app_client.get(path(task), headers=person.headers).status_code == status
            assert denied(app_client, task, person) == (None if status == 200 else 404)


def test_an_administrator_reads_any_output_and_the_audit_trail_has_it(
    world: LogWorld, app_client: TestClient, tenant: Tenant, admin: Person
) -> None:
    task = world.task()
    _, source = world.attempt(task)
    world.take(source, written(0, "what went wrong"))
    theirs = f"{API}/admin/tasks/{task.uid}/logs"
    answer = app_client.get(f"{theirs}?position=5", headers=admin.headers)
    assert (answer.status_code, text_of(answer.json()["records"])) == (200, "went wrong")
    trail = f"{API}/admin/audit?action=task.read_output"
    (row,) = app_client.get(trail, headers=admin.headers).json()["items"]
    assert (row["actor"], row["target"]) == (f"user:{admin.user.uid}", f"task:{task.uid}")
    assert (row["customer_id"], row["details"]) == (str(tenant.customer.uid), {"rank": 0, "position": 5})
    nowhere = theirs.replace(str(task.uid), str(source.allocation_uid))
    assert app_client.get(nowhere, headers=admin.headers).status_code == 404
    assert len(app_client.get(trail, headers=admin.headers).json()["items"]) == 1
    for person in (tenant.owner, tenant.member):
        assert app_client.get(theirs, headers=person.headers).status_code == 403


def denied(client: TestClient, task: Task, person: Person | None, query: str = "") -> int | None:
    """The status of what a WebSocket's handshake is refused with."""
    headers = dict(person.headers) if person else {}
    try:
        with client.websocket_connect(follow_path(task) + query, headers=headers):
            return None
    except WebSocketDenialResponse as denial:
        assert denial.headers["content-type"] == "application/problem+json"
        return int(denial.status_code)


def follow_path(task: Task) -> str:
    return f"{API}/customer/tasks/{task.uid}/logs/follow"


def follow(client: TestClient, who: Person, task: Task, position: int = 0) -> tuple[list[dict[str, Any]], int]:
    """All records until the connection is closed, and the code of that."""
    records: list[dict[str, Any]] = []
    headers = dict(who.headers)
    with client.websocket_connect(f"{follow_path(task)}?position={position}", headers=headers) as socket:
        while True:
            try:
                message = socket.receive_json()
            except WebSocketDisconnect as closed:
                assert message["ended"] or closed.code != connection.DONE
                return records, closed.code
            records += message["records"]


def test_a_websocket_is_refused_as_any_request_is(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    world.attempt(task)
    assert denied(app_client, task, None) == 401
    assert denied(app_client, task, tenant.owner, "?position=-1") == 422
    assert denied(app_client, task, tenant.owner, "?attempt=7") == 404


def test_following_shows_what_is_there_and_ends_with_the_attempt(
    world: LogWorld, app_client: TestClient, tenant: Tenant
) -> None:
    task = world.task()
    attempt, source = world.attempt(task)
    world.take(source, written(0, "one ", 7, "two"), last=True)
    world.end(attempt)
    assert follow(app_client, tenant.owner, task)[1] == connection.DONE
    assert text_of(follow(app_client, tenant.owner, task)[0]) == "one <7>two"
    assert text_of(follow(app_client, tenant.owner, task, 2)[0]) == "e <7>two"
    assert follow(app_client, tenant.owner, task, 99)[0] == []


def test_following_waits_for_the_first_attempt_unless_there_will_be_none(
    world: LogWorld, app_client: TestClient, tenant: Tenant, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "LOOK_AGAIN_S", 0.05)
    task = world.task()
    with app_client.websocket_connect(follow_path(task), headers=dict(tenant.owner.headers)) as socket:
        attempt, source = world.attempt(task)
        world.take(source, written(0, "first"))
        message = socket.receive_json()
        assert (message["attempt"], text_of(message["records"]), message["ended"]) == (1, "first", False)
        world.take(source, [], position=5, last=True)
        world.end(attempt)
        assert socket.receive_json() == {"attempt": 1, "records": [], "next_position": 5, "ended": True}
    never = world.task("never")
    values = {"state": TaskState.CANCELLED, "ended_at": text("now()")}
    database.transact(lambda session: session.execute(update(Task).where(Task.id == never.id).values(**values)))
    assert follow(app_client, tenant.owner, never) == ([], connection.DONE)


def test_who_is_no_longer_let_in_is_cut_off(
    world: LogWorld, app_client: TestClient, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHECK_AGAIN_S", 0.05)
    task = world.task()
    world.attempt(task)
    headers = dict(tenant.member.headers)
    with app_client.websocket_connect(follow_path(world_task(world, tenant)), headers=headers) as socket:
        disable = f"{API}/customer/members/{tenant.member.user.uid}/disable"
        assert app_client.post(disable, headers=tenant.owner.headers).status_code < 300
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == connection.NOT_ALLOWED


def world_task(world: LogWorld, tenant: Tenant) -> Task:
    task = world.task("members", user=tenant.member.user)
    world.attempt(task)
    return task


def test_a_customer_has_so_many_followers_at_most(
    world: LogWorld, app_client: TestClient, tenant: Tenant, settings: Settings
) -> None:
    task = world.task()
    world.attempt(task)
    app_client.app.state.following._most_of_customer = 1  # type: ignore[attr-defined] # the test client's Any
    with app_client.websocket_connect(follow_path(task), headers=dict(tenant.owner.headers)):
        assert denied(app_client, task, tenant.owner) == 429
    assert denied(app_client, task, tenant.owner) is None


def test_documents_are_what_the_schema_says(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    _, source = world.attempt(task)
    world.take(source, written(0, "text", 7))
    answer: httpx.Response = app_client.get(path(task), headers=tenant.owner.headers)  # type: ignore[assignment]
    assert endpoints.LogOut.model_validate_json(answer.text).next_position == 11


def test_rows_of_other_attempts_are_not_mixed_in(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    tasks = [world.task(name) for name in ("a", "b")]
    for task in tasks:
        _, source = world.attempt(task)
        world.take(source, written(0, task.name * 10))
    assert [text_of(read(app_client, tenant.owner, task)["records"]) for task in tasks] == ["a" * 10, "b" * 10]
    assert len(world.fleet.rows(LogChunk)) == len(world.fleet.rows(TaskAttempt)) == 2
