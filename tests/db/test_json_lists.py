"""Lists that leave the database as JSON: to the character what the model of their items would have written."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.allocations.schemas import AllocationSummary
from api.allocations.tables import Allocation
from api.billing.journal import top_up
from api.db import Database
from api.identity.tables import User
from api.machines.registration import register
from api.machines.tables import Gpu, Host
from api.pagination import JsonList, Page
from api.settings import Settings
from api.tenants.tables import Customer, Workspace
from scheduler.host_protocol import GpuFacts, HostFacts, LeaseEnd
from scheduler.ports import Ended, Placed, WaitReason
from scheduler.states import EndReason
from tests.db.conftest import Person, Tenant
from tests.db.fleet import DOLLAR, Fleet, decide

ADMIN = "/api/v1/admin/allocations"
CUSTOMER = "/api/v1/customer/allocations"
MICROSECONDS = (0, 1, 123_456, 120_000, 500_000, 999_999)
TIMES = [datetime(2026, 11, 24, 18, 0, 7, microsecond, tzinfo=UTC) for microsecond in MICROSECONDS]
NASTY = 'quo"te back\\slash é \U0001f600 \u2028 tab\t line\n </script>'


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


@pytest.fixture
def allocations(fleet: Fleet, tenant: Tenant) -> list[Allocation]:
    """One in each stage of life, with times of all forms, and texts that want escaping."""
    fleet.host("h1", gpus=8)
    fleet.price()
    fleet.database.transact(
        lambda session: top_up(
            session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="first"
        )
    )
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    made = [fleet.submit(owner, gpus=1 + number % 2) for number in range(len(TIMES))]
    store = fleet.lead()
    store.admit(decide(store)[:4])
    store.record([Placed(allocation.id, 1) for allocation in made[:3]])
    reason = WaitReason("no_capacity", NASTY, 3, {"free": 0}, TIMES[-1].astimezone(), "estimate")
    store.record_waits({made[4].id: reason})
    fleet.end(made[0], EndReason.CANCELLED)
    fleet.end(made[1], EndReason.FAILED)
    store.record([Ended(made[1].id, 1, (LeaseEnd(0, exit_code=1, last_window=None),))])
    fleet.database.transact(_make_awkward)
    return made


def _make_awkward(session: Session) -> None:
    for at, allocation in zip(TIMES, session.scalars(select(Allocation).order_by(Allocation.id)), strict=True):
        allocation.queued_at = at
        allocation.end_detail = NASTY
        allocation.memory_bytes = 2**53 + 1
        if allocation.run_until is not None:
            allocation.run_until = at.astimezone() + timedelta(days=1)
    session.execute(update(Workspace).values(name="wörk"))


def listed(client: TestClient, path: str, person: Person, **params: str | int) -> dict[str, Any]:
    answer = client.get(path, headers=person.headers, params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    document: dict[str, Any] = answer.json()
    # Same fields, same order, same values, as the model that the API's document names would write them.
    assert json.dumps(document) == json.dumps(Page[AllocationSummary].model_validate(document).model_dump(mode="json"))
    return document


def test_the_list_is_what_its_model_writes(
    app_client: TestClient, admin: Person, tenant: Tenant, allocations: list[Allocation]
) -> None:
    document = listed(app_client, ADMIN, admin)
    assert {item["state"] for item in document["items"]} == {"queued", "placing", "active", "releasing", "released"}
    assert [len(item["devices"]) for item in document["items"]] == [0, 0, 2, 1, 2, 1]
    assert listed(app_client, CUSTOMER, tenant.owner) == document
    for item in document["items"]:
        alone = app_client.get(f"{ADMIN}/{item['id']}", headers=admin.headers).json()
        assert item == {name: value for name, value in alone.items() if name != "events"}


def test_pages_join_up(app_client: TestClient, tenant: Tenant, allocations: list[Allocation]) -> None:
    whole = listed(app_client, CUSTOMER, tenant.owner)["items"]
    for limit in (1, 2, 5, 6):
        page = listed(app_client, CUSTOMER, tenant.owner, limit=limit)
        found = page["items"]
        while page["next_cursor"] is not None:
            assert len(page["items"]) == limit
            page = listed(app_client, CUSTOMER, tenant.owner, limit=limit, cursor=page["next_cursor"])
            found = found + page["items"]
        assert found == whole


def test_a_cursor_leads_no_further_than_the_list_it_is_used_on(
    app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant, allocations: list[Allocation]
) -> None:
    cursor = listed(app_client, ADMIN, admin, limit=1)["next_cursor"]
    for person in (other_tenant.owner, other_tenant.member, tenant.member):
        assert listed(app_client, CUSTOMER, person, cursor=cursor) == {"items": [], "next_cursor": None}


def test_every_field_has_its_column() -> None:
    with pytest.raises(TypeError, match="AllocationSummary"):
        JsonList(AllocationSummary, select(Allocation.id, Allocation.state), key=Allocation.id, version=(), filters={})


CHANGES = {
    "customer": lambda made: update(Customer).values(name="renamed"),
    "workspace": lambda made: update(Workspace).values(name="renamed"),
    "user": lambda made: update(User).where(User.username == "acme-owner").values(username="renamed"),
    "host": lambda made: update(Host).values(name="renamed"),
    # Devices are rows of their own, of one generation of the allocation.
    "devices": lambda made: update(Allocation).where(Allocation.id == made[2].id).values(generation=2),
    "run_until": lambda made: update(Allocation).where(Allocation.id == made[2].id).values(run_until=TIMES[0]),
    "wait": lambda made: update(Allocation).where(Allocation.id == made[4].id).values(wait_reason={"code": "quota"}),
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_an_item_shows_is_never_what_it_was(
    app_client: TestClient, tenant: Tenant, database: Database, allocations: list[Allocation], field: str
) -> None:
    before = listed(app_client, CUSTOMER, tenant.owner)["items"]
    database.transact(lambda session: session.execute(CHANGES[field](allocations)))
    after = listed(app_client, CUSTOMER, tenant.owner)["items"]
    assert [item[field] for item in after] != [item[field] for item in before]
    for item in after:
        alone = app_client.get(f"{CUSTOMER}/{item['id']}", headers=tenant.owner.headers).json()
        assert item == {name: value for name, value in alone.items() if name != "events"}


def test_a_device_that_changes_changes_where_it_is_listed(
    app_client: TestClient, admin: Person, fleet: Fleet, settings: Settings, allocations: list[Allocation]
) -> None:
    """Its model, say after an update of the driver, or its place in the order."""
    before = listed(app_client, ADMIN, admin)["items"]
    (host,) = fleet.database.transact(lambda session: session.scalars(select(Host)).all())
    gpus = fleet.database.transact(lambda session: session.scalars(select(Gpu).order_by(Gpu.index)).all())
    last = len(gpus) - 1
    turned = tuple(GpuFacts(last - gpu.index, gpu.uuid, "Renamed", gpu.memory_bytes) for gpu in gpus)
    facts = HostFacts(
        "boot",
        host.name,
        "10.0.0.1",
        "Debian",
        "6.1",
        8,
        2**36,
        2**40,
        "20.10",
        "watcher",
        simulated=False,
        gpus=turned,
    )
    fleet.database.transact(lambda session: register(session, settings, host_id=host.id, facts=facts))
    after = listed(app_client, ADMIN, admin)["items"]
    for old, new in zip(before, after, strict=True):
        assert [device["uuid"] for device in new["devices"]] == [device["uuid"] for device in reversed(old["devices"])]
        assert {device["model"] for device in new["devices"]} <= {"Renamed"}
