"""Signing in at the Hub through the platform: the whole code flow, the pages, and attacks on both."""

import base64
import hashlib
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import KeySet
from sqlalchemy import update

from api.app import create_app
from api.clock import utc_now
from api.db import Database
from api.identity.tables import User
from api.oidc.tables import AuthorizationCode
from api.settings import Settings
from api.web.browser import set_cookie, visit_cookie
from tests.db.conftest import PASSWORD, Person, Tenant

CALLBACK = "http://hub.testserver/hub/oauth_callback"
VERIFIER = "v" * 50
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
SECRET = "hub_oidc_client_secret-for-tests"
ASKED = {
    "response_type": "code",
    "client_id": "remotegpu-hub",
    "redirect_uri": CALLBACK,
    "scope": "openid profile email",
    "state": "st",
    "nonce": "n-1",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


def form_of(page: Any) -> dict[str, str]:
    """The hidden fields of a page's first form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))


def sign_in(client: TestClient, username: str, password: str = PASSWORD, target: str = "/") -> Any:
    form = form_of(client.get("/account/login"))
    body = {**form, "username": username, "password": password, "next": target}
    return client.post("/account/login", data=body, follow_redirects=False)


def authorize(client: TestClient, **changes: str | None) -> Any:
    query = {name: value for name, value in {**ASKED, **changes}.items() if value is not None}
    return client.get("/oauth/authorize?" + urlencode(query), follow_redirects=False)


def code_of(answer: Any) -> str:
    assert answer.status_code == 302, answer.text
    location = urlsplit(answer.headers["location"])
    query = dict(parse_qsl(location.query))
    assert answer.headers["location"].startswith(CALLBACK + "?") and query["state"] == "st"
    return query["code"]


def redeem(client: TestClient, code: str, **changes: str | None) -> Any:
    body = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    sent = {name: value for name, value in {**body, **changes}.items() if value is not None}
    return client.post("/oauth/token", data=sent, auth=("remotegpu-hub", SECRET))


def test_the_whole_flow(app: FastAPI, app_client: TestClient, tenant: Tenant) -> None:
    first = authorize(app_client)
    assert first.status_code == 303
    target = dict(parse_qsl(urlsplit(first.headers["location"]).query))["next"]
    back = sign_in(app_client, "acme-owner", target=target)
    assert (back.status_code, back.headers["location"]) == (303, target)
    code = code_of(app_client.get(target, follow_redirects=False))
    answer = redeem(app_client, code)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    issued = answer.json()
    keys = KeySet.import_key_set(app_client.get("/oauth/jwks").json())
    claims = jwt.decode(issued["id_token"], keys, algorithms=["ES256"]).claims
    uid = str(tenant.owner.user.uid)
    assert (claims["iss"], claims["aud"], claims["sub"], claims["nonce"]) == (
        "http://testserver", "remotegpu-hub", uid, "n-1",
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {issued['access_token']}"}
    me = app_client.get("/oauth/userinfo", headers=headers).json()
    assert me == {
        "sub": uid, "preferred_username": "acme-owner", "name": "acme-owner", "role": "customer_owner",
        "customer": "acme", "password_changed_at": None, "email": "acme-owner@example.test", "email_verified": False,
    }  # fmt: skip
    # The Hub's token is good for nothing else, and the API's is no good here.
    assert app_client.get("/api/v1/auth/me", headers=headers).status_code == 401
    assert app_client.get("/oauth/userinfo", headers=tenant.owner.headers).status_code == 401


def test_discovery(app_client: TestClient) -> None:
    found = app_client.get("/.well-known/openid-configuration").json()
    assert found["issuer"] == "http://testserver"
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert all("d" not in key for key in app_client.get("/oauth/jwks").json()["keys"])


def test_code_is_good_once(app_client: TestClient, tenant: Tenant) -> None:
    sign_in(app_client, "acme-owner")
    code = code_of(authorize(app_client))
    assert redeem(app_client, code).status_code == 200
    replayed = redeem(app_client, code)
    assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_grant")


def test_code_expires(app_client: TestClient, tenant: Tenant, database: Database) -> None:
    sign_in(app_client, "acme-owner")
    code = code_of(authorize(app_client))
    database.transact(lambda s: s.execute(update(AuthorizationCode).values(expires_at=utc_now())))
    assert redeem(app_client, code).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "change",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge": "short"},
    ],
)
def test_pkce_is_required_of_the_confidential_client(
    app_client: TestClient, tenant: Tenant, change: dict[str, str | None]
) -> None:
    sign_in(app_client, "acme-owner")
    answer = authorize(app_client, **change)
    assert "code=" not in answer.headers.get("location", "")
    assert answer.status_code == 400 or "error=invalid_request" in answer.headers["location"]


@pytest.mark.parametrize("verifier", [None, "w" * 50, "short"])
def test_code_without_its_verifier_is_worth_nothing(
    app_client: TestClient, tenant: Tenant, verifier: str | None
) -> None:
    sign_in(app_client, "acme-owner")
    answer = redeem(app_client, code_of(authorize(app_client)), code_verifier=verifier)
    assert answer.status_code == 400 and "access_token" not in answer.json()


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.test/hub/oauth_callback", CALLBACK + "/", CALLBACK + "?x=1", CALLBACK + "#x",
        "http://hub.testserver.evil.test/hub/oauth_callback", "javascript:alert(1)", "//evil.test",
        "HTTP://HUB.testserver/hub/oauth_callback",
    ],
)  # fmt: skip
def test_another_redirect_is_refused_without_redirecting(app_client: TestClient, tenant: Tenant, uri: str) -> None:
    sign_in(app_client, "acme-owner")
    answer = authorize(app_client, redirect_uri=uri)
    assert answer.status_code == 400
    assert "location" not in answer.headers


def test_redirect_must_match_when_redeeming(app_client: TestClient, tenant: Tenant) -> None:
    sign_in(app_client, "acme-owner")
    answer = redeem(app_client, code_of(authorize(app_client)), redirect_uri="http://evil.test/")
    assert answer.json()["error"] == "invalid_grant"


def test_client_must_prove_itself(app_client: TestClient, tenant: Tenant) -> None:
    sign_in(app_client, "acme-owner")
    code = code_of(authorize(app_client))
    body = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    wrong = app_client.post("/oauth/token", data=body, auth=("remotegpu-hub", "guess"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    none = app_client.post("/oauth/token", data={**body, "client_id": "remotegpu-hub"})
    assert none.status_code == 401
    assert redeem(app_client, code).status_code == 200  # whoever does not hold the secret can't burn the code


def test_nonce_is_used_once(app_client: TestClient, tenant: Tenant) -> None:
    sign_in(app_client, "acme-owner")
    code_of(authorize(app_client))
    again = authorize(app_client)
    assert "code=" not in again.headers.get("location", "")


@pytest.mark.parametrize("change", [{"client_id": "evil"}, {"client_id": None}, {"response_type": "token"}])
def test_unknown_client_or_response_type(app_client: TestClient, tenant: Tenant, change: dict[str, str | None]) -> None:
    sign_in(app_client, "acme-owner")
    answer = authorize(app_client, **change)
    assert "code=" not in answer.headers.get("location", "")
    assert answer.status_code in (302, 400, 401)


def test_prompt_none_and_login(app_client: TestClient, tenant: Tenant) -> None:
    nobody = authorize(app_client, prompt="none")
    assert nobody.headers["location"].startswith(CALLBACK) and "error=login_required" in nobody.headers["location"]
    sign_in(app_client, "acme-owner")
    fresh = authorize(app_client, prompt="login")
    assert fresh.headers["location"].startswith("/account/login?") and "again=true" in fresh.headers["location"]
    assert "<form" in app_client.get(fresh.headers["location"]).text
    assert "code=" in authorize(app_client, prompt="none").headers["location"]


def test_first_password_is_changed_on_the_way(app_client: TestClient, tenant: Tenant, database: Database) -> None:
    database.transact(
        lambda s: s.execute(update(User).where(User.id == tenant.owner.user.id).values(must_change_password=True))
    )
    sign_in(app_client, "acme-owner")
    held = authorize(app_client)
    assert held.headers["location"].startswith("/account/password?")
    page = app_client.get(held.headers["location"])
    new = "brand-new-password"
    body = {
        **{name: value.replace("&amp;", "&") for name, value in form_of(page).items()},
        "current_password": PASSWORD, "new_password": new, "repeat_password": "different-one",
    }  # fmt: skip
    assert app_client.post("/account/password", data=body).status_code == 422
    done = app_client.post("/account/password", data={**body, "repeat_password": new}, follow_redirects=False)
    assert done.headers["location"].startswith("/oauth/authorize?")
    assert code_of(app_client.get(done.headers["location"], follow_redirects=False))


def test_disabled_user_gets_no_code_and_no_token(app_client: TestClient, tenant: Tenant, admin: Person) -> None:
    sign_in(app_client, "acme-owner")
    code = code_of(authorize(app_client))
    app_client.post(f"/api/v1/admin/users/{tenant.owner.user.uid}/disable", headers=admin.headers)
    assert redeem(app_client, code).json()["error"] == "invalid_grant"
    assert authorize(app_client, nonce="n-2").headers["location"].startswith("/account/login?")


def test_logout_asks_and_goes_back_to_the_hub(app_client: TestClient, tenant: Tenant) -> None:
    sign_in(app_client, "acme-owner")
    home = "http://hub.testserver/hub/home"
    query = urlencode({"client_id": "remotegpu-hub", "post_logout_redirect_uri": home})
    page = app_client.get(f"/oauth/logout?{query}")
    assert page.status_code == 200
    assert app_client.get("/account/", follow_redirects=False).status_code == 200  # a link alone signs nobody out
    body = {name: value.replace("&amp;", "&") for name, value in form_of(page).items()}
    done = app_client.post("/oauth/logout", data=body, follow_redirects=False)
    assert done.headers["location"] == home
    assert app_client.get("/account/", follow_redirects=False).headers["location"] == "/account/login"
    elsewhere = urlencode({"client_id": "remotegpu-hub", "post_logout_redirect_uri": "http://evil.test/"})
    assert app_client.get(f"/oauth/logout?{elsewhere}", follow_redirects=False).headers["location"] == "/account/login"


def test_strict_cookie_comes_along_after_a_page_of_our_own(app_client: TestClient, tenant: Tenant) -> None:
    answer = app_client.get(
        "/oauth/authorize?" + urlencode(ASKED), headers={"sec-fetch-site": "cross-site"}, follow_redirects=False
    )
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/oauth/authorize?' in answer.text


def test_session_cookie_is_host_only_strict_and_out_of_scripts(app_client: TestClient, tenant: Tenant) -> None:
    cookie = next(c for c in sign_in(app_client, "acme-owner").headers.get_list("set-cookie") if "rg_session" in c)
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and "domain" not in cookie.lower()


def test_cookies_are_for_the_paths_of_our_pages_only(app_client: TestClient, tenant: Tenant) -> None:
    """On one host name the browser would else send them to the Hub's port, which passes them on to tenants."""
    answers = [app_client.get("/account/login"), sign_in(app_client, "acme-owner")]
    paths = [re.search(r"Path=([^;]+)", c) for a in answers for c in a.headers.get_list("set-cookie")]
    assert {found[1] if found else None for found in paths} == {"/account", "/oauth", "/ops"}


@pytest.mark.parametrize(
    ("public", "hub", "start", "path"),
    [
        ("https://gpu.test", "https://hub.test", "__Host-rg_visit=", "Path=/;"),
        ("https://gpu.test", "https://gpu.test:8080", "__Secure-rg_visit=", "Path=/account;"),
        ("http://gpu.test", "http://hub.test", "rg_visit=", "Path=/account;"),
    ],
)
def test_cookie_prefixes(settings: Settings, public: str, hub: str, start: str, path: str) -> None:
    response = Response()
    urls = settings.model_copy(update={"public_url": public, "hub_url": hub})
    set_cookie(response, urls, visit_cookie(urls), "secret")
    first = response.headers.getlist("set-cookie")[0]
    assert first.startswith(start) and path in f"{first};"


def test_a_tossed_cookie_is_refused(app_client: TestClient, tenant: Tenant) -> None:
    sign_in(app_client, "acme-owner")
    ours = f"rg_session={app_client.cookies.get('rg_session', path='/account')}"
    app_client.cookies.clear()
    assert app_client.get("/account/", headers={"cookie": ours}).status_code == 200
    for tossed in (f"{ours}; rg_session=x", f"rg_session=x; {ours}", f"{ours};  rg_session =", f"{ours};{ours}"):
        for path in ("/account/", "/account/login", "/oauth/authorize?" + urlencode(ASKED), "/ops/ray/"):
            answer = app_client.get(path, headers={"cookie": tossed}, follow_redirects=False)
            assert (answer.status_code, answer.json()["code"]) == (400, "cookies"), (tossed, path)
        answer = app_client.post("/account/logout", headers={"cookie": tossed}, data={"csrf": "x"})
        assert answer.status_code == 400


def test_forms_need_their_token(app_client: TestClient, tenant: Tenant) -> None:
    body = {"username": "acme-owner", "password": PASSWORD, "next": "/"}
    assert app_client.post("/account/login", data=body).status_code == 403
    form = form_of(app_client.get("/account/login"))
    stolen = app_client.post("/account/login", data={**body, **form}, headers={"origin": "http://evil.test"})
    assert stolen.status_code == 403
    assert app_client.post("/account/login", data={**body, "csrf": "0" * 64}).status_code == 403
    sign_in(app_client, "acme-owner")
    for path in ("/account/logout", "/oauth/logout", "/account/password"):
        assert app_client.post(path, data={"csrf": form["csrf"]}).status_code == 403, path


@pytest.mark.parametrize("target", ["//evil.test", "http://evil.test", "/\\evil.test", "javascript:x", "/\t/evil.test"])
def test_signing_in_leads_nowhere_else(app_client: TestClient, tenant: Tenant, target: str) -> None:
    assert sign_in(app_client, "acme-owner", target=target).headers["location"] == "/account/"


def test_pages_have_a_strict_policy(app_client: TestClient) -> None:
    policy = app_client.get("/account/login").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "script-src" not in policy
    assert "form-action 'self' http://hub.testserver" in policy
    assert app_client.get("/static/style.css").headers["content-type"].startswith("text/css")


def test_signing_in_may_end_at_a_users_subdomain(settings: Settings, database: Database) -> None:
    urls = {"hub_url": "https://hub.test:8080", "hub_subdomains": True}
    with TestClient(create_app(settings.model_copy(update=urls), database)) as client:
        policy = client.get("/account/login").headers["content-security-policy"]
    assert policy.endswith("form-action 'self' https://hub.test:8080 https://*.hub.test:8080")


def test_wrong_password_on_the_page(app_client: TestClient, tenant: Tenant) -> None:
    answer = sign_in(app_client, "acme-owner", "<script>wrong")
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text and "<script>" not in answer.text
