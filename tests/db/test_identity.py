"""Signing in, tokens, refresh tokens, passwords and API keys, and attacks on each."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey
from sqlalchemy import select, update

from api.app import create_app
from api.audit.tables import AuditEntry
from api.clock import utc_now
from api.db import Database
from api.identity import tokens
from api.identity.bootstrap import ensure_admin
from api.identity.login import FREE_FAILURES
from api.identity.signing_keys import KeyRing, rotate
from api.identity.tables import ApiKey, SigningKey, User
from api.settings import Settings
from tests.db.conftest import PASSWORD, Person, Tenant

ME = "/api/v1/auth/me"
LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
KEYS = "/api/v1/customer/api-keys"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def sign_in(client: TestClient, username: str, password: str = PASSWORD) -> Any:
    return client.post(LOGIN, json={"username": username, "password": password})


def b64(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_sign_in_and_profile(app_client: TestClient, tenant: Tenant) -> None:
    pair = sign_in(app_client, "acme-owner").json()
    assert (pair["token_type"], pair["expires_in"], pair["must_change_password"]) == ("bearer", 900, False)
    me = app_client.get(ME, headers=bearer(pair["access_token"])).json()
    assert (me["username"], me["role"], me["customer"]["name"]) == ("acme-owner", "customer_owner", "acme")
    changed = app_client.patch(ME, json={"display_name": "Ada"}, headers=bearer(pair["access_token"]))
    assert changed.json()["display_name"] == "Ada"


def test_token_without_a_signature_is_refused(app: FastAPI, app_client: TestClient, admin: Person) -> None:
    claims = admin.access_token.split(".")[1]
    for header in ({"alg": "none"}, {"alg": "none", "kid": app.state.keys.current().signing_kid}):
        answer = app_client.get(ME, headers=bearer(f"{b64(header)}.{claims}."))
        assert answer.status_code == 401


def test_token_signed_with_the_public_key_as_a_secret_is_refused(
    app: FastAPI, app_client: TestClient, admin: Person
) -> None:
    loaded = app.state.keys.current()
    signed = f"{b64({'alg': 'HS256', 'kid': loaded.signing_kid, 'typ': 'at+jwt'})}.{admin.access_token.split('.')[1]}"
    signature = hmac.digest(loaded.signing.as_pem(private=False), signed.encode(), "sha256")
    forged = f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    assert app_client.get(ME, headers=bearer(forged)).status_code == 401


@pytest.mark.parametrize("known_kid", [True, False])
def test_token_of_another_key_is_refused(app: FastAPI, app_client: TestClient, admin: Person, known_kid: bool) -> None:
    kid = app.state.keys.current().signing_kid if known_kid else "unknown"
    claims = json.loads(base64.urlsafe_b64decode(admin.access_token.split(".")[1] + "=="))
    header = {"alg": "ES256", "kid": kid, "typ": "at+jwt"}
    forged = jwt.encode(header, claims, ECKey.generate_key("P-256"), algorithms=["ES256"])
    assert app_client.get(ME, headers=bearer(forged)).status_code == 401


@pytest.mark.parametrize(
    "change",
    [{"exp": 1}, {"aud": "elsewhere"}, {"iss": "https://elsewhere.test"}, {"sub": "nobody"}, {"sid": None}],
    ids=["expired", "audience", "issuer", "subject", "session"],
)
def test_token_with_a_wrong_claim_is_refused(
    app: FastAPI, app_client: TestClient, admin: Person, change: dict[str, object]
) -> None:
    loaded = app.state.keys.current()
    claims = json.loads(base64.urlsafe_b64decode(admin.access_token.split(".")[1] + "=="))
    header = {"alg": "ES256", "kid": loaded.signing_kid, "typ": "at+jwt"}
    good = jwt.encode(header, claims, loaded.signing, algorithms=["ES256"])
    assert app_client.get(ME, headers=bearer(good)).status_code == 200
    bad = jwt.encode(header, {**claims, **change}, loaded.signing, algorithms=["ES256"])
    assert app_client.get(ME, headers=bearer(bad)).status_code == 401


@pytest.mark.parametrize("junk", ["", "x", "a.b.c", "ä.b.c", "rgpu_" + "x" * 43, "e30.e30.e30", "x" * 9000])
def test_junk_is_refused(app_client: TestClient, junk: str) -> None:
    headers = [(b"authorization", b"Bearer " + junk.encode())]
    assert app_client.get(ME, headers=headers).status_code == 401


def test_rotation_keeps_old_tokens_good(
    app: FastAPI, app_client: TestClient, admin: Person, database: Database, settings: Settings
) -> None:
    database.transact(lambda session: rotate(session, settings))
    replica = KeyRing(database, settings)
    assert len(replica.current().public) == 2
    assert app_client.get(ME, headers=admin.headers).status_code == 200
    new = tokens.issue(
        replica, issuer=settings.public_url, audience=tokens.API_AUDIENCE, subject=admin.user.uid, lifetime_s=60
    )
    claims = tokens.verify(replica, new, issuer=settings.public_url, audience=tokens.API_AUDIENCE)
    assert claims["sub"] == str(admin.user.uid)
    database.transact(
        lambda session: session.execute(
            update(SigningKey).where(SigningKey.verifies_until.is_not(None)).values(verifies_until=utc_now())
        )
    )
    with TestClient(create_app(settings, database)) as restarted:
        assert restarted.get(ME, headers=admin.headers).status_code == 401


def test_private_keys_are_sealed(app: FastAPI, database: Database) -> None:
    app.state.keys.current()
    with database.session() as session:
        row = session.scalars(select(SigningKey)).one()
    assert b"PRIVATE KEY" not in row.private_sealed
    assert "d" not in row.public_jwk


def test_refresh_rotates(app_client: TestClient, admin: Person) -> None:
    pair = app_client.post(REFRESH, json={"refresh_token": admin.refresh_token}).json()
    assert pair["refresh_token"] != admin.refresh_token
    assert app_client.get(ME, headers=bearer(pair["access_token"])).status_code == 200


def test_reused_refresh_token_ends_the_session(app_client: TestClient, admin: Person, database: Database) -> None:
    pair = app_client.post(REFRESH, json={"refresh_token": admin.refresh_token}).json()
    reused = app_client.post(REFRESH, json={"refresh_token": admin.refresh_token})
    assert (reused.status_code, reused.json()["code"]) == (401, "invalid_refresh_token")
    # Whoever holds the newer one is out as well, and the access tokens with it: one of the two is a thief.
    assert app_client.post(REFRESH, json={"refresh_token": pair["refresh_token"]}).status_code == 401
    assert app_client.get(ME, headers=bearer(pair["access_token"])).status_code == 401
    with database.session() as session:
        actions = session.scalars(select(AuditEntry.action)).all()
    assert "session.refresh_token_reused" in actions


def test_logout_ends_access_tokens_too(app_client: TestClient, admin: Person) -> None:
    assert app_client.post("/api/v1/auth/logout", json={"refresh_token": admin.refresh_token}).status_code == 204
    assert app_client.get(ME, headers=admin.headers).status_code == 401
    assert app_client.post(REFRESH, json={"refresh_token": admin.refresh_token}).status_code == 401


def test_wrong_password_and_unknown_user_look_the_same(app_client: TestClient, admin: Person) -> None:
    wrong, unknown = sign_in(app_client, "admin", "wrong-password"), sign_in(app_client, "nobody")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert wrong.json()["code"] == "invalid_credentials"


def test_unknown_user_takes_as_long(app_client: TestClient, admin: Person) -> None:
    def fastest(username: str) -> float:
        spent = []
        for _ in range(3):
            begun = time.monotonic()
            sign_in(app_client, username, "wrong-password")
            spent.append(time.monotonic() - begun)
        return min(spent)

    assert fastest("nobody") > 0.4 * fastest("admin")


def test_lockout(app_client: TestClient, admin: Person, database: Database) -> None:
    for _ in range(FREE_FAILURES):
        sign_in(app_client, "admin", "wrong-password")
    locked = sign_in(app_client, "admin")
    assert locked.json() == sign_in(app_client, "nobody").json()  # the right password, and still no different
    with database.session() as session:
        user = session.scalars(select(User).where(User.username == "admin")).one()
    assert user.failed_logins == FREE_FAILURES  # attempts while it is locked are not counted
    assert user.locked_until is not None
    database.transact(lambda s: s.execute(update(User).values(locked_until=utc_now() - timedelta(seconds=1))))
    assert sign_in(app_client, "admin", "wrong-password").status_code == 401
    with database.session() as session:
        again = session.scalars(select(User).where(User.username == "admin")).one()
    assert again.locked_until is not None and again.locked_until - utc_now() > timedelta(seconds=2.5)
    database.transact(lambda s: s.execute(update(User).values(locked_until=utc_now() - timedelta(seconds=1))))
    assert sign_in(app_client, "admin").status_code == 200


def test_first_password_must_be_changed(app_client: TestClient, database: Database) -> None:
    assert ensure_admin(database, password="generated-by-launcher")
    assert not ensure_admin(database, password="another-one-entirely")
    pair = sign_in(app_client, "admin", "generated-by-launcher").json()
    assert pair["must_change_password"] is True
    headers = bearer(pair["access_token"])
    blocked = app_client.get("/api/v1/admin/customers", headers=headers)
    assert (blocked.status_code, blocked.json()["code"]) == (403, "password_change_required")
    assert app_client.get(ME, headers=headers).json()["must_change_password"] is True

    def change(current: str, new: str) -> Any:
        body = {"current_password": current, "new_password": new}
        return app_client.post("/api/v1/auth/password", json=body, headers=headers)

    assert change("not-the-current", PASSWORD).status_code == 401
    assert change("generated-by-launcher", "short").status_code == 422
    assert change("generated-by-launcher", "generated-by-launcher").json()["code"] == "password_unchanged"
    assert change("generated-by-launcher", PASSWORD).status_code == 204
    assert app_client.get("/api/v1/admin/customers", headers=headers).status_code == 200
    assert sign_in(app_client, "admin", "generated-by-launcher").status_code == 401


def test_password_change_ends_other_sessions(app_client: TestClient, admin: Person) -> None:
    other = sign_in(app_client, "admin").json()
    body = {"current_password": PASSWORD, "new_password": "another-horse-staple"}
    assert app_client.post("/api/v1/auth/password", json=body, headers=admin.headers).status_code == 204
    assert app_client.get(ME, headers=admin.headers).status_code == 200
    assert app_client.get(ME, headers=bearer(other["access_token"])).status_code == 401
    assert app_client.post(REFRESH, json={"refresh_token": other["refresh_token"]}).status_code == 401


def test_api_key_lives_and_ends(app_client: TestClient, tenant: Tenant, database: Database) -> None:
    body = {"name": "ci", "scopes": ["profile:read"], "expires_in_days": 30}
    made = app_client.post(KEYS, json=body, headers=tenant.member.headers)
    assert made.status_code == 201
    key = made.json()
    assert key["key"].startswith(key["prefix"]) and len(key["prefix"]) < 16
    assert app_client.get(ME, headers=bearer(key["key"])).json()["username"] == "acme-member"
    (listed,) = app_client.get(KEYS, headers=tenant.member.headers).json()["items"]
    assert "key" not in listed and listed["last_used_at"] is not None
    with database.session() as session:
        row = session.scalars(select(ApiKey)).one()
    assert row.key_hash == tokens.hash_secret(key["key"])
    assert app_client.delete(f"{KEYS}/{key['id']}", headers=tenant.owner.headers).status_code == 204
    assert app_client.get(ME, headers=bearer(key["key"])).status_code == 401


def test_expired_api_key_is_refused(app_client: TestClient, tenant: Tenant, database: Database) -> None:
    key = app_client.post(KEYS, json={"name": "ci", "scopes": ["profile:read"]}, headers=tenant.owner.headers).json()
    database.transact(lambda s: s.execute(update(ApiKey).values(expires_at=utc_now())))
    assert app_client.get(ME, headers=bearer(key["key"])).status_code == 401


def test_api_keys_of_others_are_out_of_reach(app_client: TestClient, tenant: Tenant, other_tenant: Tenant) -> None:
    key = app_client.post(KEYS, json={"name": "ci", "scopes": ["profile:read"]}, headers=tenant.owner.headers).json()
    for stranger in (other_tenant.owner, tenant.member):
        assert app_client.get(KEYS, headers=stranger.headers).json()["items"] == []
        assert app_client.delete(f"{KEYS}/{key['id']}", headers=stranger.headers).status_code == 404
    unknown = app_client.post(KEYS, json={"name": "x", "scopes": ["all"]}, headers=tenant.owner.headers)
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_scope")


def test_disabled_user_is_out_at_once(
    app_client: TestClient, admin: Person, tenant: Tenant, make_tenant: Callable[[str], Tenant]
) -> None:
    key = app_client.post(KEYS, json={"name": "ci", "scopes": ["profile:read"]}, headers=tenant.member.headers).json()
    url = f"/api/v1/admin/users/{tenant.member.user.uid}"
    assert app_client.post(f"{url}/disable", headers=admin.headers).status_code == 200
    assert app_client.get(ME, headers=tenant.member.headers).status_code == 401
    assert app_client.get(ME, headers=bearer(key["key"])).status_code == 401
    assert sign_in(app_client, "acme-member").json()["code"] == "account_disabled"
    assert sign_in(app_client, "acme-member", "wrong-password").json()["code"] == "invalid_credentials"
    assert app_client.post(f"{url}/enable", headers=admin.headers).status_code == 200
    assert sign_in(app_client, "acme-member").status_code == 200
    assert app_client.get(ME, headers=tenant.member.headers).status_code == 401  # its sessions had ended


def test_password_reset(app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    reset = app_client.post(f"/api/v1/admin/users/{tenant.owner.user.uid}/reset-password", headers=admin.headers).json()
    assert app_client.get(ME, headers=tenant.owner.headers).status_code == 401
    pair = sign_in(app_client, "acme-owner", reset["password"]).json()
    assert pair["must_change_password"] is True


def test_sign_in_is_rate_limited(settings: Settings, database: Database) -> None:
    strict = settings.model_copy(update={"rate_limit_sign_in": "3/minute"})
    with TestClient(create_app(strict, database)) as client:
        answers = [client.post(REFRESH, json={"refresh_token": "x"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_each_address_is_rate_limited_before_anything_is_looked_up(
    settings: Settings, database: Database, admin: Person
) -> None:
    strict = settings.model_copy(update={"rate_limit_address": "2/minute"})
    app = create_app(strict, database)
    with TestClient(app) as client:
        answers = [client.get(ME, headers=headers) for headers in (admin.headers, {}, admin.headers)]
        assert [answer.status_code for answer in answers] == [200, 401, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
    with TestClient(app, client=("192.0.2.7", 50_000)) as elsewhere:
        assert elsewhere.get(ME, headers=admin.headers).status_code == 200


def test_each_identity_is_rate_limited(settings: Settings, database: Database, admin: Person, tenant: Tenant) -> None:
    strict = settings.model_copy(update={"rate_limit_identity": "2/hour"})  # no window ends meanwhile
    with TestClient(create_app(strict, database)) as client:
        statuses = [client.get(ME, headers=admin.headers).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert client.get(ME, headers=tenant.owner.headers).status_code == 200


def test_sign_ins_are_audited(app_client: TestClient, admin: Person) -> None:
    sign_in(app_client, "admin")
    entries = app_client.get("/api/v1/admin/audit?action=session.open", headers=admin.headers).json()["items"]
    assert entries[0]["actor"] == f"user:{admin.user.uid}"
    assert entries[0]["address"] == "testclient"
