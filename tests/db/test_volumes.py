"""Volumes: made anywhere, bound to the host of the first task that runs with them, deleted when none needs them."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.app import API
from api.db import Database
from api.errors import Unprocessable
from api.machines.tables import Host
from api.tasks.tables import Task
from api.volumes import service
from api.volumes.deletion import VolumeDeletion
from api.volumes.service import VolumesElsewhere
from api.volumes.tables import Volume
from scheduler.host_protocol import VolumeMount
from scheduler.states import AdminState, TaskState
from tests.db.conftest import Person, Tenant
from tests.db.environment_world import RecordingHosts
from tests.db.fleet import Fleet
from tests.db.upload_world import add_task
from tests.waiting import wait_for

PLACE = f"{API}/customer/volumes"
SIZE = 2**30


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


@pytest.fixture
def make(app_client: TestClient, tenant: Tenant) -> Any:
    def make(name: str = "data", who: Person = tenant.member, **fields: Any) -> httpx.Response:
        body = {"name": name, "size_bytes": SIZE, **fields}
        answer: Any = app_client.post(PLACE, json=body, headers=who.headers)
        return answer

    return make


@pytest.fixture
def hosts() -> RecordingHosts:
    return RecordingHosts()


@pytest.fixture
def deletion(database: Database, hosts: RecordingHosts) -> Iterator[VolumeDeletion]:
    deletion = VolumeDeletion(database, hosts)
    yield deletion
    deletion.close()


def bound(database: Database, tenant: Tenant, *names: str, nodes: int = 1) -> int | None:
    return database.transact(
        lambda session: service.bind(session, workspace_id=tenant.workspace.id, names=names, nodes=nodes)
    )


def lie(database: Database, name: str, host: Host) -> None:
    database.transact(lambda s: s.execute(update(Volume).where(Volume.name == name).values(host_id=host.id)))


def task_with(database: Database, tenant: Tenant, *names: str, name: str = "t", **fields: Any) -> Task:
    """It mounts each volume below its name."""

    def work(session: Session) -> Task:
        task = add_task(session, tenant, name=name, **fields)
        task.spec = {"mounts": [{"volume": each, "path": f"/{each}"} for each in names]}
        return task

    return database.transact(work)


def row(database: Database, name: str = "data") -> Volume:
    with database.session() as session:
        return session.scalars(select(Volume).where(Volume.name == name).order_by(Volume.id.desc())).first() or Volume()


def code_of(database: Database, tenant: Tenant, *names: str, nodes: int = 1) -> str:
    with pytest.raises(Unprocessable) as refused:
        bound(database, tenant, *names, nodes=nodes)
    return refused.value.code


def test_a_volume_is_made_and_seen_by_all(app_client: TestClient, tenant: Tenant, make: Any) -> None:
    made = make()
    assert made.status_code == 201
    volume = made.json()
    assert volume.items() >= {
        "name": "data", "workspace": "default", "owner": "acme-member", "size_bytes": SIZE, "host": None,
        "delete_at": None,
    }.items()  # fmt: skip
    again = make()
    assert (again.status_code, again.json()["code"]) == (409, "name_taken")
    for where in ("", "?workspace=default"):
        listed = app_client.get(f"{PLACE}{where}", headers=tenant.owner.headers).json()
        assert listed["items"] == [volume]
    assert app_client.get(f"{PLACE}?workspace=other", headers=tenant.owner.headers).json()["items"] == []
    assert app_client.get(f"{PLACE}/{volume['id']}", headers=tenant.owner.headers).json() == volume


def test_what_can_not_be_a_volume_is_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fields in (("Data", {}), ("a" * 64, {}), ("x", {"size_bytes": 0}), ("x", {"size_bytes": 2**60})):
        assert make(name, **fields).status_code == 422, name
    nowhere = make(workspace="nowhere")
    assert (nowhere.status_code, nowhere.json()["code"]) == (422, "unknown_workspace")
    monkeypatch.setattr(service, "MAX_VOLUMES", 1)
    assert make("a").status_code == 201
    assert make("b").json()["code"] == "too_many_volumes"


def test_where_something_with_volumes_may_run(database: Database, fleet: Fleet, tenant: Tenant, make: Any) -> None:
    first, second = fleet.host("h1"), fleet.host("h2")
    for name in ("a", "b", "c"):
        make(name)
    assert bound(database, tenant) is None
    assert bound(database, tenant, "a", "b") is None
    assert code_of(database, tenant, "a", "x") == "unknown_volume"
    assert code_of(database, tenant, "a", nodes=2) == "volumes_apart"
    lie(database, "a", first)
    assert bound(database, tenant, "a", "b") == first.id
    lie(database, "b", second)
    assert code_of(database, tenant, "a", "b", "c") == "volumes_apart"
    retired = update(Host).where(Host.id == first.id).values(admin_state=AdminState.RETIRED)
    database.transact(lambda session: session.execute(retired))
    assert code_of(database, tenant, "a") == "host_not_available"


def test_anothers_volume_is_unknown(database: Database, other_tenant: Tenant, make: Any) -> None:
    make("a")
    assert code_of(database, other_tenant, "a") == "unknown_volume"


def test_the_first_to_run_binds_its_volumes(database: Database, fleet: Fleet, tenant: Tenant, make: Any) -> None:
    first, second = fleet.host("h1"), fleet.host("h2")
    make("a"), make("b")
    task, late = (task_with(database, tenant, *names, name=names[-1]) for names in (("b", "a"), ("a",)))
    database.transact(lambda session: service.settle(session, task, first.id))
    assert {row(database, name).host_id for name in "ab"} == {first.id}
    database.transact(lambda session: service.settle(session, task, first.id))  # asked again
    with pytest.raises(VolumesElsewhere):
        database.transact(lambda session: service.settle(session, late, second.id))
    assert database.transact(lambda session: service.mounts(session, task)) == (
        VolumeMount(f"rg-vol-{row(database, 'a').uid}", "/a", SIZE),
        VolumeMount(f"rg-vol-{row(database, 'b').uid}", "/b", SIZE),
    )
    without = database.transact(lambda session: add_task(session, tenant, name="without"))
    assert database.transact(lambda session: service.mounts(session, without)) == ()


def test_what_waits_with_the_volume_is_bound_with_it(
    database: Database, fleet: Fleet, tenant: Tenant, make: Any
) -> None:
    """Those of other volumes, and those that have a place, are left alone. The scheduler hears of it."""
    host = fleet.host("h1")
    owner = (tenant.customer, tenant.workspace, tenant.member.user)
    make("a"), make("b")
    waits, other = (fleet.submit(owner, kind="task", home_volume=None) for _ in range(2))
    task_with(database, tenant, "a", name="waits", state=TaskState.QUEUED, allocation_id=waits.id)
    task_with(database, tenant, "b", name="other", state=TaskState.QUEUED, allocation_id=other.id)
    starts = task_with(database, tenant, "a", name="starts")
    with database.engine.begin() as connection:
        connection.execute(text("delete from scheduler_changes"))
    database.transact(lambda session: service.settle(session, starts, host.id))
    with database.session() as session:
        assert session.get_one(Allocation, waits.id).bound_host_id == host.id
        assert session.get_one(Allocation, other.id).bound_host_id is None
        assert session.execute(text("select kind, key from scheduler_changes")).all() == [("allocation", waits.id)]


def delete(client: TestClient, who: Person, uid: UUID | str) -> tuple[int, str]:
    answer = client.delete(f"{PLACE}/{uid}", headers=who.headers)
    return answer.status_code, answer.json()["code"] if answer.content else ""


def test_one_that_lies_nowhere_is_deleted_at_once(
    app_client: TestClient, database: Database, tenant: Tenant, make: Any
) -> None:
    uid = make().json()["id"]
    assert delete(app_client, tenant.member, uid) == (204, "")
    assert delete(app_client, tenant.member, uid) == (404, "not_found")
    assert app_client.get(PLACE, headers=tenant.owner.headers).json()["items"] == []
    assert make().status_code == 201, "its name is free"


def test_one_that_a_task_needs_is_not_deleted(
    app_client: TestClient, database: Database, tenant: Tenant, make: Any
) -> None:
    make("other")
    uid = make().json()["id"]
    task = task_with(database, tenant, "data")
    assert delete(app_client, tenant.owner, uid) == (409, "volume_in_use")
    ended = update(Task).where(Task.id == task.id).values(state=TaskState.SUCCEEDED, ended_at=text("now()"))
    database.transact(lambda session: session.execute(ended))
    assert delete(app_client, tenant.owner, uid) == (204, "")


def test_a_colleagues_is_not_for_a_member_to_delete(app_client: TestClient, tenant: Tenant, make: Any) -> None:
    uid = make(who=tenant.owner).json()["id"]
    assert delete(app_client, tenant.member, uid) == (403, "forbidden")
    assert delete(app_client, tenant.owner, uid) == (204, "")


def test_a_submission_and_a_deletion_see_each_other(
    app_client: TestClient, database: Database, tenant: Tenant, make: Any
) -> None:
    """While a submission that names it is not committed, its deletion waits; then it is refused."""
    uid = make().json()["id"]
    answers: list[tuple[int, str]] = []
    deleting = threading.Thread(target=lambda: answers.append(delete(app_client, tenant.member, uid)))

    def submit(session: Session) -> None:
        service.bind(session, workspace_id=tenant.workspace.id, names=["data"])
        deleting.start()
        wait_for(lambda: _waiting_for_locks(database) > 0 or bool(answers), timeout_s=20, what="the deletion to wait")
        add_task(session, tenant).spec = {"mounts": [{"volume": "data", "path": "/data"}]}

    database.transact(submit)
    deleting.join(20)
    assert answers == [(409, "volume_in_use")]


def _waiting_for_locks(database: Database) -> int:
    with database.engine.connect() as connection:
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        return int(connection.scalar(text(query)) or 0)


def test_its_host_deletes_it(
    app_client: TestClient, database: Database, fleet: Fleet, tenant: Tenant, make: Any,
    hosts: RecordingHosts, deletion: VolumeDeletion,
) -> None:  # fmt: skip
    host, uid = fleet.host("h1"), make().json()["id"]
    lie(database, "data", host)
    assert deletion.run_once() == 0
    assert delete(app_client, tenant.member, uid) == (204, "")
    assert delete(app_client, tenant.member, uid) == (204, ""), "until its host has confirmed"
    assert make().json()["code"] == "name_taken"
    assert app_client.get(f"{PLACE}/{uid}", headers=tenant.owner.headers).json()["delete_at"] is not None
    assert code_of(database, tenant, "data") == "unknown_volume"
    assert deletion.run_once() == 1
    assert deletion.wait_idle(20)
    assert hosts.calls == [(str(host.uid), "delete_volume", {"volume": f"rg-vol-{uid}"})]
    assert row(database).deleted_at is not None
    assert deletion.run_once() == 0
    assert make().status_code == 201


def test_a_host_that_is_away_is_asked_again(
    app_client: TestClient, database: Database, fleet: Fleet, tenant: Tenant, make: Any,
    hosts: RecordingHosts, deletion: VolumeDeletion,
) -> None:  # fmt: skip
    uid = make().json()["id"]
    lie(database, "data", fleet.host("h1"))
    delete(app_client, tenant.member, uid)
    hosts.unreachable = True
    deletion.run_once()
    assert deletion.wait_idle(20)
    assert (len(hosts.calls), row(database).deleted_at) == (1, None)
    assert deletion.run_once() == 0, "not at once"
    hosts.unreachable = False
    wait_for(deletion.run_once, timeout_s=20, what="its turn")
    assert deletion.wait_idle(20)
    assert row(database).deleted_at is not None


def test_a_host_that_has_left_for_good_is_not_asked(
    app_client: TestClient, database: Database, fleet: Fleet, tenant: Tenant, make: Any,
    hosts: RecordingHosts, deletion: VolumeDeletion,
) -> None:  # fmt: skip
    host, uid = fleet.host("h1"), make().json()["id"]
    lie(database, "data", host)
    retired = update(Host).where(Host.id == host.id).values(admin_state=AdminState.RETIRED)
    database.transact(lambda session: session.execute(retired))
    delete(app_client, tenant.member, uid)
    deletion.run_once()
    assert deletion.wait_idle(20)
    assert (hosts.calls, row(database).deleted_at is not None) == ([], True)
