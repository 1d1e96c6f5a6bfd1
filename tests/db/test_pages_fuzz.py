"""Pages and protocol endpoints, which are in no document, asked with nonsense: none of it is a failure of ours."""

import random
import re
from urllib.parse import urlencode

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from api.db import Database
from api.settings import Settings
from api.web.browser import csrf_token, session_cookie
from api.web.sessions import open_web_session
from tests.db.conftest import PASSWORD, Tenant

SEED = 20260101
TRIES = 30  # of each endpoint, by a stranger and by somebody signed in
NAMES = [
    "next", "again", "username", "password", "csrf", "current_password", "new_password", "repeat_password", "query",
    "client_id", "client_secret", "redirect_uri", "response_type", "scope", "state", "nonce", "prompt", "max_age",
    "code_challenge", "code_challenge_method", "code", "code_verifier", "grant_type", "post_logout_redirect_uri",
    "id_token_hint", "response_mode", "request", "\x00", "é", "",
]  # fmt: skip
VALUES = [
    "", "\x00", "a" * 5000, "é\u2028🙂", "-1", "9" * 30, "true", "//evil.example", "/account/", "%zz", "a=b&c=d",
    "acme-owner", PASSWORD, "remotegpu-hub", "http://hub.testserver/hub/oauth_callback", "code", "openid profile email",
    "none", "login", "S256", "plain", "authorization_code", "hub_oidc_client_secret-for-tests", "q" * 43,
]  # fmt: skip
HEADERS: list[dict[str, bytes]] = [
    {}, {"authorization": b"Bearer x"}, {"authorization": b"Basic \xff"}, {"authorization": b"Basic cmVtb3RlZ3B1Ong="},
    {"origin": b"null"}, {"sec-fetch-site": b"cross-site"}, {"cookie": b"rg_session=a; rg_session=b"},
    {"content-type": b"application/json"}, {"cookie": b"rg_session=\xff"},
]  # fmt: skip


def pages(app: FastAPI) -> list[tuple[str, str]]:
    found = (context for context in iter_route_contexts(app.routes) if isinstance(context.original_route, APIRoute))
    return [
        (method, str(context.path_format))
        for context in found
        if not context.original_route.include_in_schema
        for method in sorted(context.methods or ())
    ]


def nonsense(chance: random.Random, csrf: str) -> str:
    """Some fields, urlencoded: mostly of those that mean something, sometimes twice or cut off."""
    names = chance.choices(NAMES, k=chance.randint(0, 8))
    fields = [(name, chance.choice(VALUES)) for name in names] + [("csrf", csrf)] * chance.randint(0, 1)
    return urlencode(fields)[: chance.choice((None, None, None, 7))]


def test_nonsense_is_refused(
    app: FastAPI, app_client: TestClient, database: Database, settings: Settings, tenant: Tenant
) -> None:
    chance = random.Random(SEED)
    asked = pages(app)
    assert len(asked) >= 15
    for method, path in asked:
        secret = open_web_session(database, settings, user_id=tenant.member.user.id, address="a")
        cookie = {"cookie": f"{session_cookie(settings)}={secret}".encode()}
        for number in range(TRIES * 2):
            address = re.sub(r"\{[a-z]+\}", "x", path) + "?" + nonsense(chance, csrf_token(secret))
            headers = {"content-type": b"application/x-www-form-urlencoded"} | (cookie if number % 2 else {})
            headers |= chance.choice(HEADERS)
            body = nonsense(chance, csrf_token(secret)) if method == "POST" else None
            app_client.cookies.clear()
            answer = app_client.request(method, address, content=body, headers=headers, follow_redirects=False)
            assert answer.status_code < 500, (method, address, headers, body, answer.text)
