"""Capacity groups over HTTP: kept by administrators, seen by their customers, named by requests."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.allocations.request import SchedulingOptions
from api.allocations.tables import Allocation
from api.audit.tables import AuditEntry
from api.capacity.tables import CapacityGroup
from api.db import Database
from api.errors import Unprocessable
from api.machines.tables import Host
from scheduler.states import EndReason
from tests.db.conftest import Person, Tenant
from tests.db.fleet import Fleet

ADMIN = "/api/v1/admin/capacity-groups"
CUSTOMER = "/api/v1/customer/capacity-groups"


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.host()
    fleet.price()
    return fleet


def create(client: TestClient, admin: Person, tenant: Tenant, name: str = "gold", **fields: Any) -> httpx.Response:
    body = {"name": name, "customer": str(tenant.customer.uid), "nominal_milli": 2000, **fields}
    return client.post(ADMIN, json=body, headers=admin.headers)


def test_a_group_from_creation_to_removal(
    app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant, fleet: Fleet
) -> None:
    made = create(app_client, admin, tenant, cohort="pool", borrowing_limit_milli=1000)
    assert made.status_code == 201, made.text
    group = made.json()
    assert (group["customer"], group["nominal_milli"], group["held_milli"], group["waiting_milli"]) == (
        "acme", 2000, 0, 0
    )  # fmt: skip
    again = create(app_client, admin, other_tenant)
    assert (again.status_code, again.json()["code"]) == (409, "capacity_group_exists")
    path = f"{ADMIN}/{group['id']}"
    changes = {"nominal_milli": 3000, "borrowing_limit_milli": None, "lending_limit_milli": 500}
    changed = app_client.patch(path, json=changes, headers=admin.headers)
    assert (changed.status_code, changed.json()) == (200, group | changes)
    assert app_client.get(path, headers=admin.headers).json() == changed.json()
    assert app_client.get(CUSTOMER, headers=tenant.member.headers).json()["items"] == [changed.json()]
    assert app_client.get(CUSTOMER, headers=other_tenant.owner.headers).json()["items"] == []
    assert app_client.get(ADMIN, params={"cohort": "pool"}, headers=admin.headers).json()["items"] == [changed.json()]
    assert app_client.get(ADMIN, params={"name": "none"}, headers=admin.headers).json()["items"] == []

    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    waits = fleet.submit(owner, gpus=2, capacity_group="gold")
    shown = app_client.get(path, headers=admin.headers).json()
    assert (shown["held_milli"], shown["waiting_milli"]) == (0, 2000)
    busy = app_client.delete(path, headers=admin.headers)
    assert (busy.status_code, busy.json()["code"]) == (409, "capacity_group_in_use")
    fleet.end(waits, EndReason.CANCELLED)
    assert app_client.delete(path, headers=admin.headers).status_code == 204
    assert app_client.get(path, headers=admin.headers).status_code == 404
    assert fleet.allocation(waits.id).capacity_group_id is None
    actions = [entry.action for entry in fleet.rows(AuditEntry)]
    assert [action for action in actions if action.startswith("capacity_group")] == [
        "capacity_group.create", "capacity_group.change", "capacity_group.delete",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [{"nominal_milli": -1}, {"name": "two words"}, {"lending_limit_milli": 1.5}, {"cohort": ""}, {"owner": "me"}],
)
def test_bad_groups_are_refused(
    app_client: TestClient, admin: Person, tenant: Tenant, fields: dict[str, Any], database: Database
) -> None:
    assert create(app_client, admin, tenant, **fields).status_code == 422
    assert create(app_client, admin, tenant, customer=str(uuid4())).status_code == 404
    with database.session() as session:
        assert session.scalars(select(CapacityGroup)).all() == []


def refusal(fleet: Fleet, owner: Any, **asked: Any) -> str:
    with pytest.raises(Unprocessable) as refused:
        fleet.submit(owner, **asked)
    return refused.value.code


def test_a_request_is_charged_to_a_group_of_its_customer_that_can_bear_it(
    app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant, fleet: Fleet
) -> None:
    create(app_client, admin, tenant)
    create(app_client, admin, tenant, "alone", nominal_milli=1000, borrowing_limit_milli=None)
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    assert refusal(fleet, owner, capacity_group="silver") == "unknown_capacity_group"
    rival = (other_tenant.customer, other_tenant.workspace, other_tenant.owner.user)
    assert refusal(fleet, rival, capacity_group="gold") == "unknown_capacity_group"
    assert refusal(fleet, owner, gpus=2, capacity_group="alone") == "capacity_group_exceeded"
    assert fleet.submit(owner, gpus=1, capacity_group="alone").capacity_group_id is not None


@pytest.mark.parametrize(
    ("borrowing", "lending", "most"), [(None, None, 4), (1000, None, 3), (None, 500, 2), (0, None, 2)]
)
def test_what_a_cohort_may_lend_counts(
    app_client: TestClient,
    admin: Person,
    tenant: Tenant,
    other_tenant: Tenant,
    fleet: Fleet,
    borrowing: int | None,
    lending: int | None,
    most: int,
) -> None:
    create(app_client, admin, tenant, cohort="pool", borrowing_limit_milli=borrowing)
    create(app_client, admin, other_tenant, "lender", cohort="pool", lending_limit_milli=lending)
    create(app_client, admin, other_tenant, "elsewhere", cohort="sea", nominal_milli=9000)
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    fleet.submit(owner, gpus=most, capacity_group="gold")
    if most < 4:
        assert refusal(fleet, owner, gpus=most + 1, capacity_group="gold") == "capacity_group_exceeded"


def test_a_priority_has_its_customers_ceiling(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet
) -> None:
    path = f"/api/v1/admin/customers/{tenant.customer.uid}"
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    assert fleet.submit(owner, priority=500).priority == 500
    lowered = app_client.patch(path, json={"priority_ceiling": 10, "weight": 2.5}, headers=admin.headers)
    assert lowered.status_code == 200, lowered.text
    assert (lowered.json()["priority_ceiling"], lowered.json()["weight"]) == (10, 2.5)
    with pytest.raises(Unprocessable, match="at most 10") as refused:
        fleet.submit(owner, priority=11)
    assert refused.value.code == "priority_too_high"
    for wrong in ({"priority_ceiling": 1001}, {"weight": 0}, {"weight": -1}, {"weight": 1e9}):
        assert app_client.patch(path, json=wrong, headers=admin.headers).status_code == 422
    assert app_client.patch(path, json={}, headers=admin.headers).json() == lowered.json()


def test_a_request_is_kept_with_all_that_it_asks(fleet: Fleet, database: Database) -> None:
    database.transact(lambda session: setattr(session.scalars(select(Host)).one(), "labels", {"zone": "a"}))
    options = SchedulingOptions(
        gpu_models=["A100", "H100"], gpu_milli=460, gpu_memory_bytes=2**30, selectors=["!spot,zone in (a,b)"],
        apart="web", priority=3, preemptible=True, min_runtime_s=60, time_limit_s=3600,
    )  # fmt: skip
    fields = {name: getattr(options, name) for name in options.model_fields_set}
    row: Allocation = fleet.allocation(fleet.submit(fleet.customer(), **fields).id)
    assert (row.gpus, row.milli, row.gpu_models, row.gpu_memory_bytes) == (1, 460, ["A100", "H100"], 2**30)
    assert row.selectors == [
        {"label": "spot", "operator": "absent", "values": []},
        {"label": "zone", "operator": "in", "values": ["a", "b"]},
    ]
    assert (row.apart, row.priority, row.preemptible, row.min_runtime_s, row.limit_s) == ("web", 3, True, 60, 3600)
