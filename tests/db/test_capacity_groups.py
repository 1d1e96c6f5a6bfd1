"""Capacity groups over HTTP: kept by administrators, seen by their customers, named by requests."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from api.allocations.request import RunOptions, SchedulingOptions
from api.allocations.tables import Allocation
from api.audit.tables import AuditEntry
from api.capacity import service
from api.capacity.schemas import CapacityGroupCreate
from api.capacity.tables import CapacityGroup
from api.db import Database
from api.errors import Unprocessable
from api.machines.tables import Gpu, Host
from api.principal import Principal, Role
from scheduler.states import EndReason
from tests.db.conftest import Person, Tenant
from tests.db.environment_world import World
from tests.db.fleet import H100, Fleet
from tests.waiting import wait_for

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
    [
        {"nominal_milli": -1}, {"name": "two words"}, {"lending_limit_milli": 1.5}, {"cohort": ""}, {"owner": "me"},
        {"gpu_model": ""}, {"gpu_model": "NVIDIA Tesla"}, {"gpu_model": "A100'; drop table hosts"},
    ],
)  # fmt: skip
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


def test_a_cohort_is_of_one_model(app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    made = create(app_client, admin, tenant, cohort="pool", gpu_model="A100-80GB")
    assert (made.status_code, made.json()["gpu_model"]) == (201, "A100-80GB")
    assert create(app_client, admin, tenant, "same", cohort="pool", gpu_model="nvidia 80GB A100").status_code == 201
    for model in ("A100", "H100", None):
        refused = create(app_client, admin, tenant, "other", cohort="pool", gpu_model=model)
        assert (refused.status_code, refused.json()["code"]) == (409, "capacity_cohort_model"), model
    other = create(app_client, admin, tenant, "other", cohort="sea", gpu_model="H100").json()
    anything = create(app_client, admin, tenant, "anything", cohort="lake").json()
    for group in (other, anything):
        moved = app_client.patch(f"{ADMIN}/{group['id']}", json={"cohort": "pool"}, headers=admin.headers)
        assert (moved.status_code, moved.json()["code"]) == (409, "capacity_cohort_model")
        assert app_client.get(f"{ADMIN}/{group['id']}", headers=admin.headers).json() == group
    mixed = create(app_client, admin, tenant, "late", cohort="lake", gpu_model="H100")
    assert (mixed.status_code, mixed.json()["code"]) == (409, "capacity_cohort_model")
    for change in ({"cohort": "sea"}, {"cohort": "new"}, {"cohort": None}, {"nominal_milli": 1}):
        changed = app_client.patch(f"{ADMIN}/{other['id']}", json=change, headers=admin.headers)
        assert (changed.status_code, changed.json()["gpu_model"]) == (200, "H100"), change
    for model in ("A100", None):
        renamed = app_client.patch(f"{ADMIN}/{other['id']}", json={"gpu_model": model}, headers=admin.headers)
        assert (renamed.status_code, renamed.json()["code"]) == (422, "validation"), "a model is for good"


def test_two_models_do_not_meet_in_a_cohort_by_haste(
    app_client: TestClient, admin: Person, tenant: Tenant, database: Database
) -> None:
    """While the first group of a cohort is not committed yet, the second one waits for it."""
    someone = Principal(0, uuid4(), "admin", Role.ADMIN, None)
    owner = tenant.customer.uid
    first = CapacityGroupCreate(name="first", customer=owner, cohort="pool", nominal_milli=1, gpu_model="A100")
    with ThreadPoolExecutor(1) as second, database.session() as session:
        service.create(session, someone, first)
        answer = second.submit(create, app_client, admin, tenant, cohort="pool", gpu_model="H100")
        wait_for(lambda: answer.done() or _waits_for_a_lock(database), timeout_s=20, what="the second")
        session.commit()
    assert (answer.result().status_code, answer.result().json()["code"]) == (409, "capacity_cohort_model")


def _waits_for_a_lock(database: Database) -> bool:
    waiting = text("select exists (select from pg_locks where locktype = 'advisory' and not granted)")
    with database.session() as session:
        return bool(session.scalar(waiting))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ([], ["A100"]),
        (["A100"], ["A100"]),
        (["A100-80GB"], ["A100-80GB"]),
        (["H100", "A100-SXM4"], ["A100-SXM4"]),
        (["80GB"], ["80GB-A100"]),
        (["H100"], None),
        (["H100", "T4"], None),
    ],
)
def test_what_is_charged_to_a_group_is_of_its_model(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet, asked: list[str], kept: list[str] | None
) -> None:
    fleet.host("h2", model=H100)
    fleet.price("H100")
    create(app_client, admin, tenant, gpu_model="A100")
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    if kept is None:
        assert refusal(fleet, owner, gpu_models=asked, capacity_group="gold") == "capacity_group_model"
    else:
        allocation = fleet.submit(owner, gpu_models=asked, capacity_group="gold")
        assert fleet.allocation(allocation.id).gpu_models == kept
    create(app_client, admin, tenant, "any")
    for group in ("any", None):
        allocation = fleet.submit(owner, gpu_models=["H100"], capacity_group=group)
        assert fleet.allocation(allocation.id).gpu_models == ["H100"]


def test_an_environment_gets_the_model_of_the_group_that_it_is_started_in(fleet: Fleet, database: Database) -> None:
    """What was asked for is kept as it was asked, for a start in another group."""
    world = World.make(fleet, fleet.settings)
    fleet.host("h2", model=H100, gpus=8)
    fleet.price("H100")
    owner_id = world.owner[0].id
    groups = [
        CapacityGroup(name=name, customer_id=owner_id, nominal_milli=8000, gpu_model=model)
        for name, model in (("old", "A100"), ("new", "H100"))
    ]
    database.transact(lambda session: session.add_all(groups))
    with pytest.raises(Unprocessable) as refused:
        world.create(gpu_model="H100", capacity_group="old")
    assert refused.value.code == "capacity_group_model"
    lab = world.create(gpu_model=None, capacity_group="old")
    assert (world.allocation(lab).gpu_models, world.allocation(lab).cpu_milli) == (["A100"], 8000), "the A100's share"
    world.stop(lab)
    world.start(lab, RunOptions(capacity_group="new"))
    assert world.allocation(lab).gpu_models == ["H100"]
    world.place()
    assert world.fleet.open_device_rows()[0].gpu_id in {gpu.id for gpu in fleet.rows(Gpu) if gpu.model == H100}


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
