"""Every change by a person leaves an audit row in the same transaction (invariant I10): each endpoint that changes
something, once as it is, and once with an audit trail that can't be written, when nothing else may change either.
"""

import hashlib
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from api.app import API
from api.audit.tables import AuditEntry
from api.db import Database
from api.policy import PAGE, POLICY
from api.settings import Settings
from tests.db.conftest import PASSWORD, Person, Tenant
from tests.db.one_of_each import (
    GROUP,
    OTHER_ARCHIVE,
    RESERVATION,
    TOMORROW,
    Platform,
    contents,
    filled,
    make_platform,
)
from tests.db.task_world import document

REFUSING = """
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no audit'; end $$;
create trigger refuse before insert on audit_entries for each row execute function refuse();
"""
# A token that is renewed changes nothing that anybody sees, and a plan nothing at all.
NOT_CHANGES = {
    ("POST", "/auth/refresh"), ("POST", "/customer/allocations/plan"), ("POST", "/customer/tasks/plan"),
}  # fmt: skip
NEW_PASSWORD = "a-long-pass-phrase"
ENVIRONMENT = {"name": "new", "image": "base", "gpus": 1, "gpu_model": "A100"}

Change = tuple[str | None, str, str, Any]
# In an order in which each is possible after those before it.
CHANGES: tuple[Change, ...] = (
    (None, "POST", "/auth/login", {"username": "acme-owner", "password": PASSWORD}),
    (None, "POST", "/auth/logout", {"refresh_token": "{refresh}"}),
    ("member", "POST", "/auth/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}),
    ("member", "PATCH", "/auth/me", {"display_name": "Me"}),
    (None, "POST", "/auth/register", {"customer_name": "first", "username": "first-owner", "password": NEW_PASSWORD,
                                      "email": "first@example.test"}),
    (None, "POST", "/auth/invitations/accept", {"token": "{invitation_secret}", "username": "invited",
                                                "password": NEW_PASSWORD}),
    ("owner", "POST", "/customer/environments", ENVIRONMENT),
    ("owner", "POST", "/customer/environments/{stopped}/start", None),
    ("owner", "POST", "/customer/allocations/{allocation}/checkpoint", None),
    ("owner", "POST", "/customer/environments/{environment}/stop", None),
    ("owner", "DELETE", "/customer/environments/{environment}", None),
    ("owner", "POST", "/customer/tasks", {"tasks": [{"task": document("new")}]}),
    ("owner", "POST", "/customer/tasks/{task}/cancel", None),
    ("owner", "POST", "/customer/tasks/{task}/retry", None),
    ("admin", "POST", "/admin/tasks/{other_task}/cancel", None),
    ("owner", "POST", "/customer/reservations", RESERVATION),
    ("owner", "DELETE", "/customer/reservations/{reservation}", None),
    ("owner", "POST", "/customer/members", {"username": "colleague", "email": "colleague@example.test"}),
    ("owner", "POST", "/customer/members/{member}/disable", None),
    ("owner", "POST", "/customer/members/{member}/enable", None),
    ("owner", "POST", "/customer/invitations", {"email": "third@example.test"}),
    ("owner", "DELETE", "/customer/invitations/{other_invitation}", None),
    ("owner", "POST", "/customer/workspaces", {"name": "research"}),
    ("owner", "PUT", f"/customer/uploads/{hashlib.sha256(OTHER_ARCHIVE).hexdigest()}", OTHER_ARCHIVE),
    ("owner", "POST", "/customer/volumes", {"name": "new", "size_bytes": 2**30}),
    ("owner", "DELETE", "/customer/volumes/{volume}", None),
    ("owner", "PUT", "/customer/workspaces/{workspace}/secrets/{secret}", {"value": "another"}),
    ("owner", "DELETE", "/customer/workspaces/{workspace}/secrets/{secret}", None),
    ("owner", "POST", "/customer/api-keys", {"name": "n", "scopes": ["profile:read"]}),
    ("owner", "DELETE", "/customer/api-keys/{key}", None),
    ("admin", "POST", "/admin/customers", {"name": "second", "owner": {"username": "second-owner"}}),
    ("admin", "PATCH", "/admin/customers/{customer}", {"name": "renamed"}),
    ("admin", "POST", "/admin/customers/{customer}/top-up", {"amount_micro": 1_000_000}),
    ("admin", "POST", "/admin/customers/{customer}/refund", {"amount_micro": 1}),
    ("admin", "POST", "/admin/customers/{customer}/transfer", {"to": "{other_customer}", "amount_micro": 1}),
    ("admin", "POST", "/admin/customers/{customer}/adjustments", {"amount_micro": 1, "reason": "sorry"}),
    ("admin", "PUT", "/admin/customers/{customer}/credit-limit", {"credit_limit_micro": 1_000_000}),
    ("owner", "PUT", "/customer/billing/warn-before", {"warn_before_s": [7200]}),
    ("admin", "POST", "/admin/customers/{customer}/promotions", {"amount_micro": 1, "expires_at": TOMORROW}),
    ("admin", "PUT", "/admin/customers/{customer}/quota", {"gpus": 5}),
    ("admin", "PUT", "/admin/customers/{customer}/workspaces/{workspace}/quota", {"gpus": 4}),
    ("admin", "PUT", "/admin/users/{user}/quota", {"gpus": 3}),
    ("admin", "PUT", "/admin/plans/{plan}", {"gpus": 2}),
    ("admin", "DELETE", "/admin/plans/{plan}", None),
    ("admin", "PUT", "/admin/customers/{customer}/plan", {"plan": None}),
    ("admin", "POST", "/admin/capacity-groups", {"name": "new", **GROUP}),
    ("admin", "PATCH", "/admin/capacity-groups/{group}", {"nominal_milli": 1000}),
    ("admin", "DELETE", "/admin/capacity-groups/{group}", None),
    ("admin", "PATCH", "/admin/settings", {"self_registration": False}),
    ("admin", "POST", "/admin/users", {"username": "admin-2"}),
    ("admin", "POST", "/admin/users/{user}/reset-password", None),
    ("admin", "POST", "/admin/users/{user}/disable", None),
    ("admin", "POST", "/admin/users/{user}/enable", None),
    ("admin", "POST", "/admin/allocations/{allocation}/end", None),
    ("admin", "POST", "/admin/machines/enrolment-tokens", {}),
    ("admin", "DELETE", "/admin/machines/enrolment-tokens/{token}", None),
    ("admin", "PATCH", "/admin/machines/{machine}", {"admin_state": "draining"}),
    ("admin", "POST", "/admin/images", {"name": "new", "framework": "f", "version": "1", "reference": "new:1",
                                        "ports": [8888]}),
    ("admin", "PATCH", "/admin/images/{image}", {"enabled": False}),
    ("admin", "POST", "/admin/prices", {"gpu_model": "H100", "price_micro": 5}),
    ("admin", "POST", "/admin/customers/{customer}/disable", None),
    ("admin", "POST", "/admin/customers/{customer}/enable", None),
)  # fmt: skip


@pytest.fixture
def platform(
    app_client: TestClient, database: Database, settings: Settings, admin: Person, tenant: Tenant, other_tenant: Tenant
) -> Platform:
    return make_platform(app_client, database, settings, admin=admin, tenant=tenant, rival=other_tenant)


def test_every_endpoint_that_changes_something_is_here() -> None:
    changing = {
        (method, path.removeprefix(API))
        for (method, path), rule in POLICY.items()
        if method not in ("GET", "HEAD", "WS") and path.startswith(API) and rule is not PAGE
    }
    assert {_shape(*each) for each in changing - NOT_CHANGES} == {_shape(each[1], each[2]) for each in CHANGES}
    assert len(CHANGES) == len(changing - NOT_CHANGES)


def test_a_change_and_its_audit_row_are_one(platform: Platform, database: Database) -> None:
    """Each is first tried with an audit trail that can't be written, and must leave no trace; then as it is."""
    with database.engine.begin() as connection:
        connection.execute(text(REFUSING))
    for who, method, path, body in CHANGES:
        sent = filled(body, platform.of)
        _audit(database, works=False)
        before = contents(database)
        assert platform.ask(who, method, path, sent).status_code == 500, (method, path)
        assert contents(database) == before, f"{method} {path} changed something without its audit row"
        _audit(database, works=True)
        with database.session() as session:
            seen = session.scalar(select(func.coalesce(func.max(AuditEntry.id), 0)))
        answer = platform.ask(who, method, path, sent)
        assert answer.is_success, (method, path, answer.text)
        with database.session() as session:
            actors = set(session.scalars(select(AuditEntry.actor).where(AuditEntry.id > seen)))
        expected = {f"user:{platform.people[who].user.uid}"} if who else actors
        assert actors and actors == expected, (method, path)


def _audit(database: Database, *, works: bool) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(f"alter table audit_entries {'disable' if works else 'enable'} trigger refuse"))


def _shape(method: str, path: str) -> tuple[str, str]:
    return method, re.sub(r"\{[^}]+\}|[0-9a-f]{64}", "{}", path)
