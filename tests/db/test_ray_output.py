"""A job's output as Ray's clients read and follow it: text, from the newest attempt on, to the job's end."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text, update
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from api.db import Database
from api.logs.connection import DONE
from api.object_store import ObjectStore, ObjectStoreUnavailable
from api.ray_jobs import output
from api.settings import Settings
from api.tasks.tables import Task
from scheduler.log_records import Stream
from scheduler.states import TaskState
from tests.db.conftest import Person, Tenant
from tests.db.log_world import LogWorld, written


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> LogWorld:
    monkeypatch.setattr(output, "LOOK_AGAIN_S", 0.02)
    return LogWorld(database, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


def set_task(world: LogWorld, task: Task, **values: Any) -> None:
    world.database.transact(lambda session: session.execute(update(Task).where(Task.id == task.id).values(**values)))


def begun(world: LogWorld, task: Task, number: int = 1) -> Any:
    found = world.attempt(task, number)
    set_task(world, task, attempts=number, state=TaskState.RUNNING)
    return found


def over(world: LogWorld, task: Task, state: TaskState = TaskState.SUCCEEDED) -> None:
    set_task(world, task, state=state, ended_at=text("now()"))


def logs(client: TestClient, who: Person, task: Task) -> str:
    answer = client.get(f"/api/jobs/{task.uid}/logs", headers=who.headers)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["logs"]
    return str(answer.json()["logs"])


def tailing(client: TestClient, who: Person, task: Task) -> WebSocketTestSession:
    return client.websocket_connect(f"/api/jobs/{task.uid}/logs/tail", headers=dict(who.headers))


def rest(socket: WebSocketTestSession) -> str:
    """All that comes until it is closed with 1000."""
    found = ""
    while True:
        try:
            found += socket.receive_text()
        except WebSocketDisconnect as closed:
            assert closed.code == DONE
            return found


def test_the_text_of_the_newest_attempt(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    assert logs(app_client, tenant.owner, task) == ""
    for number, said in ((1, "first"), (2, "second ")):
        attempt, source = begun(world, task, number)
        world.take(source, written(0, said), last=number == 1)
        if number == 1:
            world.end(attempt)
    world.take(source, [*written(7, 3, "né\n", stream=Stream.STDERR)])
    assert logs(app_client, tenant.owner, task) == "second \n[3 bytes of output were dropped]\nné\n"


def test_only_the_end_of_long_output(
    world: LogWorld, app_client: TestClient, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MAX_BYTES", 4)
    task = world.task()
    _, source = begun(world, task)
    world.take(source, written(0, "0123"))
    world.take(source, written(4, "456789"))
    found = logs(app_client, tenant.owner, task)
    assert found.startswith("[earlier output is left out") and found.endswith("]\n6789")


def test_following_to_the_end(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    with tailing(app_client, tenant.owner, task) as socket:  # it waits
        attempt, source = begun(world, task)
        world.take(source, written(0, "one "))
        assert socket.receive_text() == "one "
        world.take(source, written(4, "two"), last=True)
        assert socket.receive_text() == "two"
        world.end(attempt)
        over(world, task)
        assert rest(socket) == ""
    with tailing(app_client, tenant.owner, task) as socket:
        assert rest(socket) == "one two"


def test_following_goes_on_in_the_next_attempt(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    attempt, source = begun(world, task)
    world.take(source, written(0, "one "), last=True)
    with tailing(app_client, tenant.owner, task) as socket:
        assert socket.receive_text() == "one "
        world.end(attempt, "preempted")
        set_task(world, task, state=TaskState.QUEUED)
        for number in (2, 3):
            attempt, source = begun(world, task, number)
            world.take(source, written(0, f"{number} "), last=True)
            world.end(attempt)
        over(world, task)
        assert rest(socket) == "2 3 "


def test_a_job_that_never_ran_has_no_output(world: LogWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.task()
    over(world, task, TaskState.CANCELLED)
    with tailing(app_client, tenant.owner, task) as socket:
        assert rest(socket) == ""


def test_following_outlives_a_store_that_is_away(
    world: LogWorld, app_client: TestClient, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = world.task()
    attempt, source = begun(world, task)
    world.take(source, written(0, "one "))
    world.take(source, written(4, "two"), last=True)
    world.end(attempt)
    over(world, task)
    get, failures = ObjectStore.get, iter([True, True, False, True])

    def flaky(store: ObjectStore, key: str) -> bytes:
        if next(failures, False):
            raise ObjectStoreUnavailable("gone")
        return get(store, key)

    monkeypatch.setattr(ObjectStore, "get", flaky)
    with tailing(app_client, tenant.owner, task) as socket:
        assert rest(socket) == "one two"


def test_anothers_output_is_not_there(
    world: LogWorld, app_client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    task = world.task()
    begun(world, task)
    for who in (other_tenant.owner, tenant.member):
        assert app_client.get(f"/api/jobs/{task.uid}/logs", headers=who.headers).status_code == 404
        with pytest.raises(WebSocketDenialResponse) as denied, tailing(app_client, who, task):
            pass
        assert denied.value.status_code == 404
