"""The authorisation matrix: every endpoint has a row, and every role gets what its row says."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session
from starlette.testclient import WebSocketDenialResponse

from api.app import API
from api.db import Database
from api.identity import tokens
from api.identity.authentication import KEY_PREFIX
from api.identity.authorisation import WEBSOCKET
from api.identity.tables import ApiKey
from api.policy import POLICY, Rule
from api.principal import Role
from tests.db.conftest import Person, Tenant

NOWHERE = UUID("01890000-0000-7000-8000-000000000000")
KNOWN = (APIRoute, APIWebSocketRoute)
RAYS = ("/api/version", "/api/jobs/", "/api/packages/")
SENTENCES = {
    "unauthenticated": "Sign in first",
    "missing_scope": "lacks the scope",
    "key_not_allowed": "An API key may not",
    "forbidden": "This is for users with the role",
}
MAY_PASS = {200, 201, 202, 204, 303, 400, 404, 409, 415, 422, 424, 503}


def endpoints(app: FastAPI) -> Iterator[tuple[str, str]]:
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            for method in sorted(context.methods or ()):
                yield method, str(context.path_format)
        elif isinstance(context.original_route, APIWebSocketRoute):
            yield WEBSOCKET, str(context.path_format)


def guarded(app: FastAPI) -> list[tuple[str, str, Rule]]:
    rows = [(method, path, POLICY[method, path]) for method, path in endpoints(app)]
    return [row for row in rows if row[2].roles is not None]


def has_code(answer: httpx.Response, method: str, path: str, code: str) -> bool:
    """Whether a refusal is for this reason. Ray's clients are told so in plain text; to HEAD nothing is said."""
    if path.startswith(RAYS) and method != WEBSOCKET:
        return answer.headers["content-type"] == "text/plain; charset=utf-8" and SENTENCES[code] in answer.text
    said = answer.text == "" or answer.json()["code"] == code
    return said and answer.headers["content-type"] == "application/problem+json"


def address(path: str) -> str:
    return re.sub(r"\{[^}]+\}", str(NOWHERE), path)


def ask(client: TestClient, method: str, path: str, headers: dict[str, str] | None = None) -> Any:
    """The answer to a request, or to a WebSocket's handshake. Any: the test client's own class of response."""
    if method != WEBSOCKET:
        return client.request(method, address(path), headers=headers)
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect(address(path), headers=dict(headers or {})),
    ):
        pass  # there is nothing at this address that it could be let in to
    return denied.value


def test_every_endpoint_has_a_row_and_every_row_an_endpoint(app: FastAPI) -> None:
    served = set(endpoints(app)) | {("GET", f"{API}/openapi.json")}
    assert served - set(POLICY) == set()
    assert set(POLICY) - served == set()


def test_every_route_is_behind_the_policy(app: FastAPI) -> None:
    """Mounted applications and plain routes would get past it: the document is the only one there is."""
    plain = [c.path for c in iter_route_contexts(app.routes) if not isinstance(c.original_route, KNOWN)]
    assert plain == [f"{API}/openapi.json"]


def test_an_endpoint_without_a_row_is_refused(app: FastAPI, app_client: TestClient, admin: Person) -> None:
    method, path = "GET", f"{API}/admin/settings"
    rule = POLICY.pop((method, path))
    try:
        answer = app_client.get(path, headers=admin.headers)
    finally:
        POLICY[method, path] = rule
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_nobody_gets_in_without_a_credential(app: FastAPI, app_client: TestClient) -> None:
    for method, path, _ in guarded(app):
        answer = ask(app_client, method, path)
        assert answer.status_code == 401, (method, path, answer.text)
        assert has_code(answer, method, path, "unauthenticated"), (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_each_role_gets_what_its_row_says(app: FastAPI, app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    people = {Role.ADMIN: admin, Role.OWNER: tenant.owner, Role.MEMBER: tenant.member}
    for method, path, rule in guarded(app):
        for role, person in people.items():
            assert rule.roles is not None
            answer = ask(app_client, method, path, person.headers)
            if role in rule.roles:
                assert answer.status_code in MAY_PASS, (role, method, path, answer.text)
            else:
                assert answer.status_code == 403, (role, method, path, answer.text)
                assert has_code(answer, method, path, "forbidden"), (method, path)


@pytest.fixture
def make_key(database: Database) -> Callable[..., dict[str, str]]:
    def make(person: Person, *scopes: str) -> dict[str, str]:
        secret = tokens.new_secret(KEY_PREFIX)

        def work(session: Session) -> None:
            session.add(
                ApiKey(
                    customer_id=person.user.customer_id, user_id=person.user.id, name="k", prefix=secret[:11],
                    key_hash=tokens.hash_secret(secret), scopes=list(scopes),
                )
            )  # fmt: skip

        database.transact(work)
        return {"Authorization": f"Bearer {secret}"}

    return make


def test_a_key_needs_the_scope_of_the_row(
    app: FastAPI, app_client: TestClient, tenant: Tenant, make_key: Callable[..., dict[str, str]]
) -> None:
    useless = make_key(tenant.owner, "nothing:read")
    for method, path, rule in guarded(app):
        answer = ask(app_client, method, path, useless)
        assert answer.status_code == 403, (method, path, answer.text)
        assert rule.roles is not None
        if Role.OWNER in rule.roles:
            expected = "missing_scope" if rule.scope else "key_not_allowed"
            assert has_code(answer, method, path, expected), (method, path)


def test_a_key_with_the_scope_passes(
    app: FastAPI, app_client: TestClient, tenant: Tenant, make_key: Callable[..., dict[str, str]]
) -> None:
    scopes = {rule.scope for _, _, rule in guarded(app) if rule.scope}
    able = make_key(tenant.owner, *scopes)
    for method, path, rule in guarded(app):
        if rule.scope and rule.roles and Role.OWNER in rule.roles:
            answer = ask(app_client, method, path, able)
            assert answer.status_code in MAY_PASS, (method, path, answer.text)
