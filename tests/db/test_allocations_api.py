"""Allocations over HTTP: what each role sees, the filters, and the end."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from api.allocations.tables import Allocation
from api.audit.tables import AuditEntry
from api.billing.journal import top_up
from api.clock import utc_now
from api.db import Database
from api.machines.tables import Host
from scheduler.ports import Placement, PlacementFailed, WaitReason
from tests.db.conftest import Person, Tenant
from tests.db.fleet import DOLLAR, Fleet, activate, admit, decide, releasing

ADMIN = "/api/v1/admin/allocations"
CUSTOMER = "/api/v1/customer/allocations"


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.host("h1")
    fleet.price()
    return fleet


@pytest.fixture
def ask(fleet: Fleet) -> Callable[..., Allocation]:
    """`ask(tenant, person)`: the person asks for a GPU; the tenant can pay."""

    def ask(tenant: Tenant, person: Person, **asked: Any) -> Allocation:
        fleet.database.transact(
            lambda session: top_up(
                session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key=str(uuid4())
            )
        )
        return fleet.submit((tenant.customer, tenant.workspace, person.user), **asked)

    return ask


def ids(client: TestClient, path: str, person: Person, **params: str) -> list[str]:
    answer = client.get(path, headers=person.headers, params=params)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_each_role_sees_what_it_may(
    app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant, ask: Callable[..., Allocation]
) -> None:
    of_owner, of_member = ask(tenant, tenant.owner), ask(tenant, tenant.member)
    of_rival = ask(other_tenant, other_tenant.owner)
    everything = [str(row.uid) for row in (of_rival, of_member, of_owner)]
    assert ids(app_client, ADMIN, admin) == everything
    assert ids(app_client, ADMIN, admin, customer=str(tenant.customer.uid)) == everything[1:]
    assert ids(app_client, CUSTOMER, tenant.owner) == everything[1:]
    assert ids(app_client, CUSTOMER, tenant.member) == [str(of_member.uid)]
    for person in (tenant.owner, tenant.member):
        assert app_client.get(f"{CUSTOMER}/{of_rival.uid}", headers=person.headers).status_code == 404
    assert app_client.get(f"{CUSTOMER}/{of_owner.uid}", headers=tenant.member.headers).status_code == 404
    assert app_client.get(ADMIN, headers=tenant.owner.headers).status_code == 403
    assert app_client.post(f"{ADMIN}/{of_owner.uid}/end", headers=tenant.owner.headers).status_code == 403


def test_a_placed_one_shows_its_devices_price_and_steps(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet, ask: Callable[..., Allocation]
) -> None:
    allocation = ask(tenant, tenant.owner, gpus=2)
    waiting = app_client.get(f"{CUSTOMER}/{allocation.uid}", headers=tenant.owner.headers).json()
    assert (waiting["wait"]["code"], waiting["devices"], waiting["host"]) == ("queued", [], None)
    store = fleet.lead()
    store.record_waits({allocation.id: WaitReason("no_capacity", "0 of 4", 3)})
    told = app_client.get(f"{CUSTOMER}/{allocation.uid}", headers=tenant.owner.headers).json()
    assert (told["wait"]["code"], told["wait"]["detail"], told["wait"]["position"]) == ("no_capacity", "0 of 4", 3)
    (placement,) = decide(store)
    admit(store, placement)
    activate(store, allocation)
    shown = app_client.get(f"{ADMIN}/{allocation.uid}", headers=admin.headers).json()
    assert [device["uuid"] for device in shown["devices"]] == ["GPU-h1-0", "GPU-h1-1"]
    assert (shown["host"], shown["price_micro_per_gpu_hour"], shown["wait"]) == ("h1", 2 * DOLLAR, None)
    assert [event["to_state"] for event in shown["events"]] == ["queued", "placing", "active"]
    (host,) = fleet.rows(Host)
    assert ids(app_client, ADMIN, admin, host=str(host.uid), state="active") == [str(allocation.uid)]
    assert ids(app_client, ADMIN, admin, host=str(uuid4())) == []
    assert ids(app_client, ADMIN, admin, state="released") == []


def test_a_checkpoint_of_what_runs_reaches_the_scheduler(
    app_client: TestClient, tenant: Tenant, other_tenant: Tenant, fleet: Fleet, ask: Callable[..., Allocation]
) -> None:
    allocation = ask(tenant, tenant.member)
    path = f"{CUSTOMER}/{allocation.uid}/checkpoint"
    early = app_client.post(path, headers=tenant.member.headers)
    assert (early.status_code, early.json()["code"]) == (409, "not_running")
    store = fleet.lead()
    (placement,) = decide(store)
    admit(store, placement)
    activate(store, allocation)
    store.changes()
    noted = app_client.post(path, headers=tenant.member.headers)
    assert noted.status_code == 200, noted.text
    (held,) = store.changes().held
    assert held.checkpoint_at is not None and held.checkpoint_at > held.since
    assert datetime.fromisoformat(noted.json()["checkpoint_at"]) == held.checkpoint_at
    assert app_client.post(path, headers=other_tenant.owner.headers).status_code == 404
    assert [entry.action for entry in fleet.rows(AuditEntry)].count("allocation.checkpoint") == 1


def test_a_gang_is_found_on_each_of_its_hosts(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet, ask: Callable[..., Allocation]
) -> None:
    for name in ("h2", "h3"):
        fleet.host(name)
    uids = {host.name: str(host.uid) for host in fleet.rows(Host)}
    hosts = {host.name: host for host in fleet.rows(Host)}
    gang, single, waiting = ask(tenant, tenant.owner, nodes=2), ask(tenant, tenant.owner), ask(tenant, tenant.owner)
    store = fleet.lead()
    both = (fleet.part(hosts["h2"], 0), fleet.part(hosts["h1"], 0))
    admit(store, Placement(gang.id, both))
    admit(store, fleet.placement(single, hosts["h1"], 1))
    found = {name: ids(app_client, ADMIN, admin, host=uid) for name, uid in uids.items()}
    assert found == {"h1": [str(single.uid), str(gang.uid)], "h2": [str(gang.uid)], "h3": []}
    assert str(waiting.uid) in ids(app_client, ADMIN, admin)
    store.record([PlacementFailed(gang.id, 1, "no capacity", utc_now())])
    admit(store, Placement(gang.id, (fleet.part(hosts["h2"], 0), fleet.part(hosts["h3"], 0))))
    found = {name: ids(app_client, ADMIN, admin, host=uid) for name, uid in uids.items()}
    assert found == {"h1": [str(single.uid)], "h2": [str(gang.uid)], "h3": [str(gang.uid)]}


def test_an_administrator_ends_what_runs_once(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet, ask: Callable[..., Allocation]
) -> None:
    allocation = ask(tenant, tenant.owner)
    store = fleet.lead()
    (placement,) = decide(store)
    admit(store, placement)
    activate(store, allocation)
    path = f"{ADMIN}/{allocation.uid}/end"
    first = app_client.post(path, headers=admin.headers, json={"reason": "maintenance"})
    assert first.status_code == 200, first.text
    assert (first.json()["state"], first.json()["end_reason"]) == ("releasing", "cancelled")
    again = app_client.post(path, headers=admin.headers)
    assert (again.status_code, again.json()["end_detail"]) == (200, "maintenance")
    assert [entry.action for entry in fleet.rows(AuditEntry)].count("allocation.end") == 2
    assert [ending.allocation_id for ending in releasing(store)] == [allocation.id]


@pytest.mark.parametrize(
    ("params", "status"),
    [({"state": "gone"}, 422), ({"limit": "0"}, 422), ({"cursor": "!"}, 400), ({"customer": "x"}, 422)],
)
def test_bad_queries_are_told_so(app_client: TestClient, admin: Person, params: dict[str, str], status: int) -> None:
    answer = app_client.get(ADMIN, headers=admin.headers, params=params)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_one_is_not_found(app_client: TestClient, admin: Person) -> None:
    for answer in (
        app_client.get(f"{ADMIN}/{uuid4()}", headers=admin.headers),
        app_client.post(f"{ADMIN}/{uuid4()}/end", headers=admin.headers),
    ):
        assert answer.status_code == 404
    answer = app_client.post(f"{ADMIN}/{uuid4()}/end", headers=admin.headers, json={"reason": "a\u0000b"})
    assert answer.status_code == 422
