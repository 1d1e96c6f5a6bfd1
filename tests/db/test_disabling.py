"""A user who is disabled: out at once with keys and sessions, and what they run stops in order. The others go on."""

import threading
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.audit.tables import AuditEntry
from api.billing.journal import top_up
from api.clock import utc_now
from api.db import Database
from api.environments.tables import Environment
from api.errors import Forbidden
from api.identity import disabling
from api.identity.tables import User, WebSession
from api.principal import Principal, Role
from api.settings import Settings
from api.tenants.tables import Customer
from tests.db.conftest import PASSWORD, Person, Tenant
from tests.db.environment_world import World
from tests.db.fleet import DOLLAR, Fleet
from tests.waiting import wait_for

KEYS = "/api/v1/customer/api-keys"
ME = "/api/v1/auth/me"
_WAITING = text("select count(*) from pg_locks where not granted")


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> World:
    """The tenant's member rents on a host of four GPUs."""
    owner = (tenant.customer, tenant.workspace, tenant.member.user)
    world = World.make(Fleet(database), settings, owner=owner)
    world.host()
    database.transact(
        lambda session: top_up(
            session, customer_id=tenant.customer.id, amount_micro=1000 * DOLLAR, actor="cli", key="disabling"
        )
    )
    return world


def colleague(world: World, tenant: Tenant) -> World:
    return World(world.fleet, world.settings, (tenant.customer, tenant.workspace, tenant.owner.user))


def standing(world: World, environment: Environment) -> tuple[str, str, str, str | None]:
    row, allocation = world.environment(environment), world.allocation(environment)
    return row.desired, row.observed, allocation.state, allocation.end_reason


def key_of(client: TestClient, person: Person) -> dict[str, str]:
    made = client.post(KEYS, json={"name": "ci", "scopes": ["profile:read"]}, headers=person.headers)
    return {"Authorization": f"Bearer {made.json()['key']}"}


def open_web_session(database: Database, user: User) -> None:
    opened = WebSession(user_id=user.id, token_hash=b"x", expires_at=utc_now() + timedelta(hours=1))
    database.transact(lambda session: session.add(opened))


def disabled_in(database: Database) -> AuditEntry:
    """The one audit row of it."""
    with database.session() as session:
        return session.scalars(select(AuditEntry).where(AuditEntry.action == "user.disable")).one()


def paths(tenant: Tenant, admin: Person, by: str) -> tuple[str, dict[str, str]]:
    uid = tenant.member.user.uid
    if by == "admin":
        return f"/api/v1/admin/users/{uid}", admin.headers
    return f"/api/v1/customer/members/{uid}", tenant.owner.headers


@pytest.mark.parametrize("by", ["admin", "owner"])
def test_what_a_disabled_user_runs_stops_in_order_and_nothing_comes_back(
    app_client: TestClient, admin: Person, tenant: Tenant, world: World, database: Database, by: str
) -> None:
    lab, other = world.create("lab", gpus=2), colleague(world, tenant).create("other")
    world.place()
    waiting = world.create("waiting", gpus=4)
    url, headers = paths(tenant, admin, by)
    for _ in range(2):
        assert app_client.post(f"{url}/disable", headers=headers).json()["disabled_at"] is not None
    assert standing(world, lab) == ("stopped", "queued", "releasing", "completed")  # the host gives it time to end
    assert standing(world, waiting) == ("stopped", "stopped", "released", "cancelled")
    assert standing(world, other) == ("running", "queued", "active", None)
    entry = disabled_in(database)  # the second time there was nothing left to do
    assert (entry.target, entry.customer_id) == (f"user:{tenant.member.user.uid}", tenant.customer.id)
    assert entry.details == {"environments": 2, "allocations": 0, "tasks": 0, "api_keys": 0}

    world.release()
    assert app_client.post(f"{url}/enable", headers=headers).json()["disabled_at"] is None
    assert standing(world, lab)[2:] == ("released", "completed")
    assert {standing(world, environment)[0] for environment in (lab, waiting)} == {"stopped"}
    with database.session() as session:
        assert session.scalars(select(Allocation.user_id).where(Allocation.holds())).all() == [tenant.owner.user.id]
        assert session.scalars(select(Allocation.id).where(Allocation.waits())).all() == []
    world.start(waiting)
    assert standing(world, waiting) == ("running", "queued", "queued", None)


def test_a_disabled_user_is_out_with_every_credential_and_keys_do_not_come_back(
    app_client: TestClient, admin: Person, tenant: Tenant, database: Database
) -> None:
    key, others_key = key_of(app_client, tenant.member), key_of(app_client, tenant.owner)
    open_web_session(database, tenant.member.user)
    url = f"/api/v1/admin/users/{tenant.member.user.uid}"
    app_client.post(f"{url}/disable", headers=admin.headers)
    app_client.post(f"{url}/enable", headers=admin.headers)  # lifts what is refused for being disabled, and no more
    for credential in (key, tenant.member.headers):
        assert app_client.get(ME, headers=credential).status_code == 401
    refreshed = app_client.post("/api/v1/auth/refresh", json={"refresh_token": tenant.member.refresh_token})
    assert refreshed.status_code == 401
    with database.session() as session:
        assert session.scalars(select(WebSession.revoked_at)).one() is not None
    assert disabled_in(database).details["api_keys"] == 1
    assert app_client.get(ME, headers=others_key).status_code == 200
    signed_in = app_client.post("/api/v1/auth/login", json={"username": "acme-member", "password": PASSWORD})
    assert signed_in.status_code == 200


def test_nobody_starts_anything_for_a_disabled_user(
    app_client: TestClient, admin: Person, tenant: Tenant, world: World
) -> None:
    lab = world.create("lab")
    url = f"/api/v1/admin/users/{tenant.member.user.uid}"
    app_client.post(f"{url}/disable", headers=admin.headers)
    start = f"/api/v1/customer/environments/{lab.uid}/start"
    refused = app_client.post(start, headers=tenant.owner.headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "account_disabled")
    app_client.post(f"{url}/enable", headers=admin.headers)
    assert app_client.post(start, headers=tenant.owner.headers).status_code == 200


def principal_of(person: Person) -> Principal:
    user = person.user
    return Principal(user.id, user.uid, user.username, Role(user.role), user.customer_id)


def test_a_request_that_races_with_disabling_queues_nothing(
    admin: Person, tenant: Tenant, world: World, database: Database
) -> None:
    """It was let in before; it waits for the customer's row, and then sees who it is for."""
    refused: list[object] = []

    def create() -> None:
        try:
            refused.append(world.create("late"))
        except Forbidden as error:
            refused.append(error.code)

    late = threading.Thread(target=create)

    def disable(session: Session) -> None:
        disabling.disable(session, principal_of(admin), tenant.member.user.uid, scope=select(User))
        session.flush()
        late.start()
        wait_for(lambda: _waiting(database) > 0, timeout_s=20, what="the request to wait")

    database.transact(disable)
    late.join(20)
    assert refused == ["account_disabled"]
    assert world.rows() == []


def _waiting(database: Database) -> int:
    with database.session() as session:
        return int(session.scalar(_WAITING) or 0)


def test_a_disabled_customer_queues_nothing(world: World, tenant: Tenant, database: Database) -> None:
    database.transact(lambda session: setattr(session.get_one(Customer, tenant.customer.id), "disabled_at", utc_now()))
    with pytest.raises(Forbidden):
        world.create("late")


def test_an_administrator_is_disabled_by_another(app_client: TestClient, admin: Person) -> None:
    made = app_client.post("/api/v1/admin/users", json={"username": "second"}, headers=admin.headers).json()["user"]
    disabled = app_client.post(f"/api/v1/admin/users/{made['id']}/disable", headers=admin.headers)
    assert (disabled.status_code, disabled.json()["disabled_at"] is not None) == (200, True)
    own = app_client.post(f"/api/v1/admin/users/{admin.user.uid}/disable", headers=admin.headers)
    assert own.json()["code"] == "own_account"
