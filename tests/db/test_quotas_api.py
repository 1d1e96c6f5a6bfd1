"""Quotas and plans over HTTP: who sets them, what is shown and refused, and that the controller hears of them."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from api.db import Database
from api.images.tables import Image
from api.principal import Principal, Role
from api.quotas.administration import remove_plan
from api.quotas.tables import Plan, Quota
from tests.db.conftest import Person, Tenant
from tests.db.fleet import GIB, Fleet
from tests.db.ledger_world import await_waiting


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


def line(answer: httpx.Response, name: str, model: str | None = None) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    (found,) = (each for each in answer.json()["effective"] if (each["limit"], each["gpu_model"]) == (name, model))
    return {key: found[key] for key in ("level", "most", "used")}


def test_the_tightest_limit_is_shown_with_its_use(app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    customer = f"/api/v1/admin/customers/{tenant.customer.uid}"
    own, of_workspace = f"{customer}/quota", f"{customer}/workspaces/default/quota"
    of_user, mine = f"/api/v1/admin/users/{tenant.member.user.uid}/quota", "/api/v1/customer/quota"
    assert line(app_client.get(own, headers=admin.headers), "queued") == {"level": "customer", "most": 100, "used": 0}
    assert line(app_client.get(own, headers=admin.headers), "gpus") == {"level": None, "most": None, "used": 0}
    set_own = app_client.put(own, headers=admin.headers, json={"gpus": 4, "volumes": 5, "gpu_models": {"H100": 2}})
    assert (set_own.status_code, set_own.json()["gpus"], set_own.json()["tasks"]) == (200, 4, None)
    app_client.put(of_workspace, headers=admin.headers, json={"gpus": 3})
    app_client.put(of_user, headers=admin.headers, json={"gpus": 8, "volumes": 1})
    body = {"name": "data", "size_bytes": GIB}
    assert app_client.post("/api/v1/customer/volumes", json=body, headers=tenant.member.headers).status_code == 201
    again = app_client.post("/api/v1/customer/volumes", json=body | {"name": "b"}, headers=tenant.member.headers)
    assert (again.status_code, again.json()["code"]) == (422, "quota_exceeded")
    assert again.json()["detail"].startswith("The user's quota is 1 volumes, 1 are in use and 1 more were asked for.")
    seen = app_client.get(mine, headers=tenant.member.headers)
    assert line(seen, "gpus") == {"level": "workspace", "most": 3, "used": 0}
    assert line(seen, "volumes") == {"level": "user", "most": 1, "used": 1}
    assert line(seen, "volume_bytes") == {"level": None, "most": None, "used": GIB}
    assert line(seen, "gpu_models", "H100") == {"level": "customer", "most": 2, "used": 0}
    assert line(app_client.get(mine, headers=tenant.owner.headers), "volumes")["most"] == 5
    assert line(app_client.get(of_user, headers=admin.headers), "gpus")["most"] == 4, "the customer's is tighter"
    assert app_client.get(of_workspace, headers=admin.headers).json()["gpus"] == 3
    trail = app_client.get("/api/v1/admin/audit", headers=admin.headers).json()["items"]
    assert {"customer.quota", "workspace.quota", "user.quota"} <= {each["action"] for each in trail}


def test_nothing_is_left_of_limits_that_are_taken_away(
    app_client: TestClient, admin: Person, tenant: Tenant, database: Database
) -> None:
    path = f"/api/v1/admin/users/{tenant.member.user.uid}/quota"
    app_client.put(path, headers=admin.headers, json={"gpus": 4})
    assert line(app_client.put(path, headers=admin.headers, json={}), "gpus")["most"] is None
    with database.session() as session:
        assert session.scalars(select(Quota)).all() == []


def test_limits_that_make_no_sense_and_owners_that_are_not_there(
    app_client: TestClient, admin: Person, tenant: Tenant
) -> None:
    path = f"/api/v1/admin/customers/{tenant.customer.uid}/quota"
    for body in ({"gpus": -1}, {"cpu_milli": 2**70}, {"gpu_models": {"": 1}}, {"gpu_models": {"A100": -1}}, {"no": 1}):
        assert app_client.put(path, headers=admin.headers, json=body).status_code == 422, body
    assert app_client.get(path, headers=tenant.owner.headers).status_code == 403
    nobody = "0192d1b0-0000-7000-8000-000000000000"
    for missing in (
        f"/api/v1/admin/customers/{nobody}/quota",
        f"/api/v1/admin/customers/{tenant.customer.uid}/workspaces/other/quota",
        f"/api/v1/admin/users/{admin.user.uid}/quota",
    ):
        assert app_client.put(missing, headers=admin.headers, json={}).status_code == 404
    assert app_client.get("/api/v1/customer/quota?workspace=other", headers=tenant.owner.headers).status_code == 422


def test_plans(app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    plans, customer = "/api/v1/admin/plans", f"/api/v1/admin/customers/{tenant.customer.uid}"
    assert app_client.put(f"{plans}/small", headers=admin.headers, json={"gpus": 2}).json()["customers"] == 0
    assert app_client.put(f"{customer}/plan", headers=admin.headers, json={"plan": "none"}).status_code == 404
    given = app_client.put(f"{customer}/plan", headers=admin.headers, json={"plan": "small"})
    assert (given.json()["plan"], given.json()["gpus"], line(given, "gpus")["most"]) == ("small", None, 2)
    app_client.put(f"{plans}/small", headers=admin.headers, json={"gpus": 3})
    seen = app_client.get("/api/v1/customer/quota", headers=tenant.member.headers)
    assert (seen.json()["plan"], line(seen, "gpus")["most"]) == ("small", 3)
    assert app_client.delete(f"{plans}/small", headers=admin.headers).json()["code"] == "plan_in_use"
    assert app_client.get(plans, headers=admin.headers).json()["items"][0]["customers"] == 1
    taken = app_client.put(f"{customer}/plan", headers=admin.headers, json={"plan": None})
    assert line(taken, "gpus")["most"] is None
    assert app_client.delete(f"{plans}/small", headers=admin.headers).status_code == 204
    assert app_client.delete(f"{plans}/small", headers=admin.headers).status_code == 404


def test_a_plan_that_is_removed_while_it_is_given(
    app_client: TestClient, admin: Person, tenant: Tenant, database: Database
) -> None:
    path, someone = f"/api/v1/admin/customers/{tenant.customer.uid}/plan", Principal(0, uuid4(), "a", Role.ADMIN, None)
    app_client.put("/api/v1/admin/plans/small", headers=admin.headers, json={"gpus": 2})
    with ThreadPoolExecutor(1) as other:
        with database.session() as removal, removal.begin():
            remove_plan(removal, someone, "small")
            removal.flush()
            given = other.submit(app_client.put, path, headers=admin.headers, json={"plan": "small"})
            await_waiting(database, given)
        assert given.result().status_code == 404


def test_an_array_has_no_more_elements(app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet) -> None:
    path = f"/api/v1/admin/users/{tenant.member.user.uid}/quota"
    app_client.put(path, headers=admin.headers, json={"array_elements": 3})
    fleet.host()
    fleet.database.transact(
        lambda session: session.add(
            Image(name="base", framework="f", version="1", reference="remotegpu/base:1", ports=[])
        )
    )
    task = {"name": "many", "image": "base", "command": "true", "array": "1-4", "resources": {"gpus": 0}}
    answer = app_client.post("/api/v1/customer/tasks", json={"tasks": [{"task": task}]}, headers=tenant.member.headers)
    assert "is 3 elements for an array, and 4 were asked for" in answer.json()["detail"]
    fewer = {"tasks": [{"task": task | {"array": "1-3"}}]}
    assert app_client.post("/api/v1/customer/tasks", json=fewer, headers=tenant.member.headers).status_code == 201


def test_the_controller_hears_of_plans(fleet: Fleet, database: Database) -> None:
    fleet.host()
    acme = fleet.customer()
    fleet.submit(acme)
    store = fleet.lead()
    store.changes()
    database.transact(lambda session: session.add(Plan(name="small", gpus=1)))

    def told(statement: str) -> list[int | None]:
        database.transact(lambda session: session.execute(text(statement)))
        return [view.limits.gpus for view in store.changes().customers]

    assert told("update customers set plan_id = (select id from plans)") == [1]
    assert told("update plans set gpus = 5") == [5]
