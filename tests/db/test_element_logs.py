"""The output of an array's element over HTTP: its own bytes alone, followed over its tries, whoever ran them."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from api.app import API
from api.billing.journal import top_up
from api.db import Database
from api.logs import connection, documents
from api.logs.receiving import Source, take
from api.object_store import ObjectStore, location_of
from api.settings import Settings
from api.tasks.tables import Task
from scheduler.host_protocol import ElementResult, ElementStart
from tests.db.conftest import Person, Tenant
from tests.db.fleet import DOLLAR
from tests.db.log_world import incoming, written
from tests.db.task_world import TaskWorld
from tests.db.test_log_reading import text_of
from tests.db.test_task_arrays import ArrayWorld


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> ArrayWorld:
    """The tenant's member submits."""
    monkeypatch.setattr(documents, "LOOK_AGAIN_S", 0.05)
    database.transact(
        lambda session: top_up(session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="k")
    )
    made = TaskWorld.make(database, settings, owner=(tenant.customer, tenant.workspace, tenant.member.user))
    return ArrayWorld(made.world, made.host)


class Worker:
    """One worker of an array, whose output is all that its elements write."""

    def __init__(self, world: ArrayWorld, task: Task) -> None:
        (self.allocation,) = world.workers(task)
        self._world, self._position, self._have = world, 0, 0

    def take(self, count: int = 1) -> list[int]:
        runs = self._world.exchange(self.allocation, have=self._have, take=count).runs
        self._have += len(runs)
        return [run.index for run in runs]

    def begin(self, place: int) -> None:
        started = (ElementStart(place, 1, self._position),)
        self._world.exchange(self.allocation, have=self._have, started=started)

    def write(self, *parts: str | int, last: bool = False) -> None:
        settings = self._world.world.settings
        chunk = incoming(written(self._position, *parts), position=self._position, last=last)
        source = Source(self._world.host.id, self.allocation.uid, self.allocation.generation, 0)
        take(self._world.database, ObjectStore(location_of(settings)), settings, source, chunk)
        self._position += chunk.length

    def end(self, place: int, begin: int, end: int, *, code: int = 0, more: int = 0) -> list[int]:
        """Its result is told; which elements it gets with the answer."""
        result = ElementResult(place, "exited", code, None, 1, 2, begin, end)
        runs = self._world.exchange(self.allocation, have=self._have, take=more, results=(result,)).runs
        self._have += len(runs)
        return [run.index for run in runs]

    def over(self) -> None:
        self.write(last=True)
        self._world.end(self.allocation)


def path(task: Task, index: int, follow: str = "", **query: Any) -> str:
    asked = "".join(f"&{key}={value}" for key, value in query.items())
    return f"{API}/customer/tasks/{task.uid}/logs{follow}?element={index}{asked}"


def read(client: TestClient, who: Person, task: Task, index: int, **query: Any) -> dict[str, Any]:
    answer = client.get(path(task, index, **query), headers=who.headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


class Follower:
    """What comes over one connection."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self._socket = socket
        self.last: dict[str, Any] = {}

    def until(self, text: str) -> None:
        """Exactly this comes next."""
        got = ""
        while got != text:
            self.last = self._socket.receive_json()
            got += text_of(self.last["records"])
            assert text.startswith(got), got

    def ended(self) -> None:
        """Nothing comes but the end."""
        self.last = self._socket.receive_json()
        assert (self.last["records"], self.last["ended"]) == ([], True)
        with pytest.raises(WebSocketDisconnect) as closed:
            self._socket.receive_json()
        assert closed.value.code == connection.DONE


def denied(client: TestClient, who: Person, task: Task, index: int, **query: Any) -> int:
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(path(task, index, "/follow", **query), headers=dict(who.headers)),
    ):
        pass
    return int(refused.value.status_code)


def test_an_element_shows_its_own_bytes_alone(world: ArrayWorld, app_client: TestClient, tenant: Tenant) -> None:
    """Also where a host has made one record of what several elements wrote."""
    task = world.one(array="0-3%1")
    worker = Worker(world, task)
    worker.take(3)
    worker.write("zero\none\ntwo", 3)
    worker.end(0, 0, 5)
    worker.end(1, 5, 9)
    worker.begin(2)
    shown = [read(app_client, tenant.member, task, index) for index in range(2)]
    assert [text_of(each["records"]) for each in shown] == ["zero\n", "one\n"]
    assert [(each["next_position"], each["ended"]) for each in shown] == [(5, True), (9, True)]
    assert text_of(read(app_client, tenant.member, task, 1, position=6)["records"]) == "ne\n"
    assert text_of(read(app_client, tenant.member, task, 1, limit=1)["records"]) == "one\n"
    worker.end(2, 9, 14)
    running = read(app_client, tenant.member, task, 2)
    assert (text_of(running["records"]), running["next_position"], running["ended"]) == ("two<2>", 14, True)


def test_only_those_who_see_the_task_see_its_elements(
    world: ArrayWorld, app_client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    task = world.one(array="0-3%1")
    worker = Worker(world, task)
    worker.take(1)
    worker.begin(0)
    worker.write("secret")
    for person in (tenant.owner, tenant.member):
        assert text_of(read(app_client, person, task, 0)["records"]) == "secret"
    for person in (other_tenant.owner, other_tenant.member):
        assert app_client.get(path(task, 0), headers=person.headers).status_code == 404
        assert denied(app_client, person, task, 0) == 404
    for index, query in ((9, {}), (0, {"attempt": 7}), (0, {"rank": 1})):
        assert app_client.get(path(task, index, **query), headers=tenant.owner.headers).status_code == 404
        assert denied(app_client, tenant.owner, task, index, **query) == 404
    assert app_client.get(path(task, 3), headers=tenant.owner.headers).status_code == 404, "it has not started"


def test_an_element_is_followed_to_its_end(world: ArrayWorld, app_client: TestClient, tenant: Tenant) -> None:
    task = world.one(array="0-1%1")
    worker = Worker(world, task)
    with app_client.websocket_connect(path(task, 1, "/follow"), headers=dict(tenant.member.headers)) as socket:
        follower = Follower(socket)
        worker.take(2)
        worker.write("zero\n")
        worker.end(0, 0, 5)
        worker.begin(1)
        worker.write("one\n")
        follower.until("one\n")
        worker.write("more\n")
        follower.until("more\n")
        assert (follower.last["attempt"], follower.last["next_position"]) == (1, 14)
        worker.end(1, 5, 14)
        worker.write("somebody else's\n")
        follower.ended()
        assert follower.last["next_position"] == 14
    again = path(task, 1, "/follow", attempt=1, position=9)
    with app_client.websocket_connect(again, headers=dict(tenant.member.headers)) as socket:
        follower = Follower(socket)
        follower.until("more\n")
        follower.ended()


def test_an_element_is_followed_over_its_tries(world: ArrayWorld, app_client: TestClient, tenant: Tenant) -> None:
    """The second in the same worker, given out with the answer to the first one's end; the third elsewhere."""
    task = world.one(array="0-0%1", retry={"max": 5, "on": ["error", "host_lost"], "backoff": "0s"})
    worker = Worker(world, task)
    worker.take(1)
    worker.begin(0)
    worker.write("first try\n")
    assert worker.end(0, 0, 10, code=1, more=1) == [0]
    worker.begin(1)
    worker.write("second\n")
    with app_client.websocket_connect(
        path(task, 0, "/follow", attempt=1), headers=dict(tenant.member.headers)
    ) as socket:
        follower = Follower(socket)
        follower.until("first try\nsecond\n")
        worker.write("last words\n", last=True)  # it ends with its element
        world.end(worker.allocation, exit_code=9)
        other = Worker(world, task)
        assert other.take() == [0]
        other.begin(0)
        other.write("third\n")
        follower.until("last words\nthird\n")
        assert (follower.last["attempt"], follower.last["next_position"]) == (2, 6)
        other.end(0, 0, 6)
        follower.ended()
    rests = {
        (1, 0): "first try\nsecond\nlast words\nthird\n",
        (1, 10): "second\nlast words\nthird\n",
        (1, 12): "cond\nlast words\nthird\n",
        (1, 28): "third\n",
        (2, 2): "ird\n",
    }
    for (attempt, position), rest in rests.items():
        asked = path(task, 0, "/follow", attempt=attempt, position=position)
        with app_client.websocket_connect(asked, headers=dict(tenant.member.headers)) as socket:
            Follower(socket).until(rest)
    assert text_of(read(app_client, tenant.member, task, 0)["records"]) == "third\n"
    assert text_of(read(app_client, tenant.member, task, 0, attempt=1)["records"]) == "first try\n"
    assert text_of(read(app_client, tenant.member, task, 0, attempt=1, position=11)["records"]) == "econd\nlast words\n"


def test_following_ends_with_an_array_that_never_ran_the_element(
    world: ArrayWorld, app_client: TestClient, tenant: Tenant
) -> None:
    task = world.one(array="0-3%1")
    headers = dict(tenant.member.headers)
    with app_client.websocket_connect(path(task, 2, "/follow"), headers=headers) as socket:
        world.cancel(task)
        world.finish()
        Follower(socket).ended()
