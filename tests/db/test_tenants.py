"""Customers, their people, invitations, registration and settings."""

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.audit.tables import AuditEntry
from api.db import Database
from api.environments.tables import Environment
from api.images.tables import Image
from api.tenants import workspaces
from api.tenants.tables import Customer, Workspace
from tests.db.conftest import PASSWORD, Person, Tenant

CUSTOMERS = "/api/v1/admin/customers"
ME = "/api/v1/auth/me"
NEW = {"name": "Initech", "owner": {"username": "peter", "email": "peter@initech.test"}}


def sign_in(client: TestClient, username: str, password: str) -> Any:
    return client.post("/api/v1/auth/login", json={"username": username, "password": password})


def test_customer_with_owner_and_workspace(app_client: TestClient, admin: Person, database: Database) -> None:
    made = app_client.post(CUSTOMERS, json=NEW, headers=admin.headers)
    assert made.status_code == 201, made.text
    customer = made.json()
    assert (customer["name"], customer["currency"], customer["disabled_at"]) == ("Initech", "USD", None)
    pair = sign_in(app_client, "peter", customer["owner"]["password"]).json()
    assert pair["must_change_password"] is True
    assert app_client.get(f"{CUSTOMERS}/{customer['id']}", headers=admin.headers).json()["name"] == "Initech"
    with database.session() as session:
        workspace = session.scalars(select(Workspace)).one()
        audited = session.scalars(select(AuditEntry.action)).all()
    assert workspace.is_default
    assert "customer.create" in audited


def test_names_are_taken_once(app_client: TestClient, admin: Person, database: Database) -> None:
    app_client.post(CUSTOMERS, json=NEW, headers=admin.headers)
    cases = [
        (NEW, "customer_exists"),
        ({"name": "B", "owner": {"username": "peter"}}, "username_taken"),
        ({"name": "B", "owner": {"username": "milton", "email": "peter@initech.test"}}, "email_taken"),
    ]
    for body, code in cases:
        answer = app_client.post(CUSTOMERS, json=body, headers=admin.headers)
        assert (answer.status_code, answer.json()["code"]) == (409, code)
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(Customer)) == 1  # nothing half-made


def test_repeated_creation_gets_the_same_reply(app_client: TestClient, admin: Person, database: Database) -> None:
    headers = {**admin.headers, "Idempotency-Key": "order-1"}
    answers: list[Any] = []

    def create() -> None:
        answers.append(app_client.post(CUSTOMERS, json=NEW, headers=headers))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert all(answer.json() == answers[0].json() for answer in answers)  # the generated password included
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(Customer)) == 1
    other = app_client.post(CUSTOMERS, json={**NEW, "name": "Other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


def test_a_customer_has_workspaces_of_its_own(app_client: TestClient, tenant: Tenant, other_tenant: Tenant) -> None:
    path = "/api/v1/customer/workspaces"
    made = app_client.post(path, json={"name": "research"}, headers=tenant.owner.headers)
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["is_default"]) == ("research", False)
    taken = app_client.post(path, json={"name": "research"}, headers=tenant.owner.headers)
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")
    assert app_client.post(path, json={"name": "x"}, headers=tenant.member.headers).status_code == 403
    assert app_client.post(path, json={"name": " "}, headers=tenant.owner.headers).status_code == 422
    assert app_client.post(path, json={"name": "research"}, headers=other_tenant.owner.headers).status_code == 201
    listed = app_client.get(path, headers=tenant.member.headers).json()["items"]
    assert [workspace["name"] for workspace in listed] == ["research", "default"]


def test_a_customer_has_so_many_workspaces_and_no_more(
    app_client: TestClient, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspaces, "MAX_WORKSPACES", 1)
    refused = app_client.post("/api/v1/customer/workspaces", json={"name": "x"}, headers=tenant.owner.headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_workspaces")


def _rent(session: Session, tenant: Tenant) -> None:
    """An environment of the tenant that waits for its GPU."""
    image = Image(name="base", framework="none", version="1", reference="base:1", ports=[8888])
    session.add(image)
    session.flush()
    figures = {"gpus": 1, "cpu_milli": 1000, "memory_bytes": 1, "disk_bytes": 1}
    owner = {
        "customer_id": tenant.customer.id, "workspace_id": tenant.workspace.id, "user_id": tenant.owner.user.id,
    }  # fmt: skip
    allocation = Allocation(**owner, **figures, image_reference="base:1", container_name="c", disconnect_s=60)
    session.add(allocation)
    session.flush()
    session.add(Environment(**owner, **figures, name="lab", image_id=image.id, allocation_id=allocation.id))


def test_disabling_a_customer_stops_everything(
    app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant, database: Database
) -> None:
    database.transact(lambda session: _rent(session, tenant))
    url = f"{CUSTOMERS}/{tenant.customer.uid}"
    for _ in range(2):
        assert app_client.post(f"{url}/disable", headers=admin.headers).json()["disabled_at"] is not None
    assert app_client.get(ME, headers=tenant.owner.headers).status_code == 401
    assert app_client.get(ME, headers=other_tenant.owner.headers).status_code == 200
    assert sign_in(app_client, "acme-owner", PASSWORD).json()["code"] == "account_disabled"
    with database.session() as session:
        allocation = session.scalars(select(Allocation)).one()
        environment = session.scalars(select(Environment)).one()
    assert (allocation.state, allocation.end_reason) == ("released", "cancelled")
    assert (environment.desired, environment.observed) == ("stopped", "stopped")
    assert app_client.post(f"{url}/enable", headers=admin.headers).json()["disabled_at"] is None
    assert sign_in(app_client, "acme-owner", PASSWORD).status_code == 200


def test_invitation(app_client: TestClient, tenant: Tenant, other_tenant: Tenant) -> None:
    url = "/api/v1/customer/invitations"
    made = app_client.post(url, json={"email": "new@acme.test"}, headers=tenant.owner.headers).json()
    assert app_client.delete(f"{url}/{made['id']}", headers=other_tenant.owner.headers).status_code == 404
    assert app_client.get(url, headers=other_tenant.owner.headers).json()["items"] == []
    body = {"token": made["token"], "username": "newbie", "password": PASSWORD}
    accept = "/api/v1/auth/invitations/accept"
    assert app_client.post(accept, json={**body, "token": "guess"}).json()["code"] == "invitation_invalid"
    user = app_client.post(accept, json=body)
    assert (user.status_code, user.json()["role"]) == (201, "customer_member")
    assert sign_in(app_client, "newbie", PASSWORD).json()["must_change_password"] is False
    assert app_client.post(accept, json={**body, "username": "second"}).status_code == 404
    members = app_client.get("/api/v1/customer/members", headers=tenant.owner.headers).json()["items"]
    assert {member["username"] for member in members} == {"acme-owner", "acme-member", "newbie"}
    revoked = app_client.post(url, json={"email": "x@acme.test"}, headers=tenant.owner.headers).json()
    assert app_client.delete(f"{url}/{revoked['id']}", headers=tenant.owner.headers).status_code == 204
    assert app_client.post(accept, json={**body, "token": revoked["token"], "username": "third"}).status_code == 404


def test_members_of_others_are_out_of_reach(app_client: TestClient, tenant: Tenant, other_tenant: Tenant) -> None:
    url = f"/api/v1/customer/members/{other_tenant.member.user.uid}/disable"
    assert app_client.post(url, headers=tenant.owner.headers).status_code == 404
    own = f"/api/v1/customer/members/{tenant.owner.user.uid}/disable"
    assert app_client.post(own, headers=tenant.owner.headers).json()["code"] == "own_account"


def test_registration_is_closed_until_opened(app_client: TestClient, admin: Person) -> None:
    body = {"customer_name": "Solo", "username": "solo", "email": "solo@solo.test", "password": PASSWORD}
    closed = app_client.post("/api/v1/auth/register", json=body)
    assert (closed.status_code, closed.json()["code"]) == (403, "registration_closed")
    opened = app_client.patch("/api/v1/admin/settings", json={"self_registration": True}, headers=admin.headers)
    assert opened.json()["self_registration"] is True
    assert app_client.post("/api/v1/auth/register", json=body).status_code == 201
    pair = sign_in(app_client, "solo", PASSWORD).json()
    me = app_client.get(ME, headers={"Authorization": f"Bearer {pair['access_token']}"}).json()
    assert (me["role"], me["customer"]["name"]) == ("customer_owner", "Solo")


def test_bad_values_are_refused(app_client: TestClient, admin: Person) -> None:
    cases: list[dict[str, Any]] = [
        {"name": "", "owner": {"username": "a1"}},
        {"name": "x\x00y", "owner": {"username": "a1"}},
        {"name": "x" * 101, "owner": {"username": "a1"}},
        {"name": "x", "owner": {"username": "Upper"}},
        {"name": "x", "owner": {"username": "a1\n"}},
        {"name": "x", "owner": {"username": "a1", "email": "no"}},
        {"name": "x", "owner": {"username": "a1"}, "currency": "usd"},
        {"name": "x", "owner": {"username": "a1"}, "surprise": 1},
    ]
    for body in cases:
        answer = app_client.post(CUSTOMERS, json=body, headers=admin.headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation"), body
    for query in ("limit=0", "limit=201", "cursor=%00", "cursor=x", "name=%00"):
        assert app_client.get(f"{CUSTOMERS}?{query}", headers=admin.headers).status_code in (400, 422), query


def test_pages(app_client: TestClient, admin: Person) -> None:
    for number in range(3):
        body = {"name": f"c{number}", "owner": {"username": f"owner{number}", "password": PASSWORD}}
        app_client.post(CUSTOMERS, json=body, headers=admin.headers)
    first = app_client.get(f"{CUSTOMERS}?limit=2", headers=admin.headers).json()
    rest = app_client.get(f"{CUSTOMERS}?limit=2&cursor={first['next_cursor']}", headers=admin.headers).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["c2", "c1", "c0"]
    assert rest["next_cursor"] is None
