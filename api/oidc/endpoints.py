"""OpenID Connect: discovery, `/oauth/authorize`, `/oauth/token`, `/oauth/userinfo`, `/oauth/jwks`, `/oauth/logout`."""

import time
from typing import Annotated, Any, cast
from urllib.parse import parse_qsl, urlencode

from authlib.oauth2 import OAuth2Error
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from api.deps import DatabaseDep, KeysDep, SettingsDep, SignInLimit
from api.errors import ApiError, Unauthenticated
from api.identity import tokens
from api.identity.signing_keys import ALGORITHM
from api.oidc.clients import SCOPES, find_client
from api.oidc.provider import Provider, claims_of, userinfo_audience
from api.settings import Settings
from api.web import sessions
from api.web.browser import LOGIN, PASSWORD, FormDep, WebUserDep, check_form, drop_cookie, session_cookie
from api.web.pages import page

router = APIRouter(include_in_schema=False)
_SEE_OTHER = 303


@router.get("/.well-known/openid-configuration")
def discovery(settings: SettingsDep) -> dict[str, Any]:
    """What this provider can do and where."""
    issuer = settings.public_url
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "userinfo_endpoint": f"{issuer}/oauth/userinfo",
        "jwks_uri": f"{issuer}/oauth/jwks",
        "end_session_endpoint": f"{issuer}/oauth/logout",
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login"],
        "claims_supported": [
            "sub", "preferred_username", "name", "email", "role", "customer", "password_changed_at",
            "auth_time", "nonce",
        ],
    }  # fmt: skip


@router.get("/oauth/jwks")
def jwks(keys: KeysDep) -> JSONResponse:
    """The public keys that verify our tokens."""
    return JSONResponse({"keys": list(keys.current().public)}, headers={"cache-control": "public, max-age=60"})


@router.get("/oauth/authorize")
def authorize(request: Request, user: WebUserDep) -> Response:
    """Send the browser back to the client with a code; through the sign-in page if need be."""
    if user is None and request.headers.get("sec-fetch-site") == "cross-site":
        # The Strict cookie stayed behind; see api.web.browser.
        return page(request, "again.html", target=_here(request))
    provider = cast(Provider, request.app.state.oidc)
    ready = user if user is not None and not user.must_change_password else None
    try:
        grant = provider.get_consent_grant(request, end_user=ready)
    except OAuth2Error as error:
        if error.redirect_uri:
            return cast(Response, provider.handle_error_response(request, error))
        return page(request, "error.html", status=400, problem=f"The sign-in request is not valid: {error.description}")
    query = dict(request.query_params)
    if user is None or _must_sign_in_again(query, user):
        for answered in ("prompt", "max_age"):  # the sign-in that follows is the answer to them
            query.pop(answered, None)
        return _to(LOGIN, query, again=user is not None)
    if user.must_change_password:
        return _to(PASSWORD, query)
    return cast(Response, provider.create_authorization_response(request, grant_user=user, grant=grant))


@router.post("/oauth/token", dependencies=[SignInLimit])
def token(request: Request, form: FormDep) -> Response:
    """Trade a code for an id token and an access token."""
    return cast(Provider, request.app.state.oidc).token_response(request, form)


@router.get("/oauth/userinfo")
@router.post("/oauth/userinfo")
def userinfo(
    database: DatabaseDep, keys: KeysDep, settings: SettingsDep, authorization: Annotated[str, Header()] = ""
) -> dict[str, Any]:
    """The claims about the user of an access token, as long as the sign-in that it came from lives."""
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("Send the access token.", headers={"WWW-Authenticate": "Bearer"})
    claims = tokens.verify(keys, credential, issuer=settings.public_url, audience=userinfo_audience(settings))
    user = sessions.find_by_id(database, int(claims["ws"]))
    if user is None or str(user.principal.user_uid) != claims["sub"]:
        raise Unauthenticated("The sign-in has ended.", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
    return claims_of(user, claims["scope"])


@router.get("/oauth/logout")
def logout_page(request: Request, user: WebUserDep, settings: SettingsDep) -> Response:
    """RP-initiated logout: asks the user, then goes back to the client if it named one of its addresses."""
    query = request.query_params
    target = _after_logout(settings, query.get("client_id"), query.get("post_logout_redirect_uri"), query.get("state"))
    if user is None:
        if request.headers.get("sec-fetch-site") == "cross-site":
            return page(request, "again.html", target=_here(request))
        return RedirectResponse(target, _SEE_OTHER)
    return page(request, "logout.html", user=user, action="/oauth/logout", query=request.url.query)


@router.post("/oauth/logout")
def logout(request: Request, user: WebUserDep, form: FormDep, database: DatabaseDep, settings: SettingsDep) -> Response:
    """The user agreed. The field `query` is the query that the page was asked with."""
    try:
        check_form(request, settings, form)
    except ApiError as error:
        return page(request, "error.html", status=error.status, problem=error.detail)
    try:
        asked = dict(parse_qsl(form.get("query", ""), max_num_fields=20))
    except ValueError:
        asked = {}
    target = _after_logout(settings, asked.get("client_id"), asked.get("post_logout_redirect_uri"), asked.get("state"))
    response = RedirectResponse(target, _SEE_OTHER)
    if user is not None:
        sessions.end(database, user)
    drop_cookie(response, settings, session_cookie(settings))
    return response


def _after_logout(settings: Settings, client_id: str | None, target: str | None, state: str | None) -> str:
    client = find_client(settings, client_id)
    if client is None or target not in client.post_logout_redirect_uris:
        return LOGIN
    return f"{target}?{urlencode({'state': state})}" if state else target


def _must_sign_in_again(query: dict[str, str], user: sessions.WebUser) -> bool:
    age_s = time.time() - user.signed_in_at.timestamp()
    max_age = query.get("max_age", "")
    too_old = max_age.isdecimal() and len(max_age) < 10 and age_s > int(max_age)
    return too_old or "login" in query.get("prompt", "").split()


def _here(request: Request) -> str:
    return f"{request.url.path}?{request.url.query}"


def _to(path: str, query: dict[str, str], *, again: bool = False) -> Response:
    asked = {"next": f"/oauth/authorize?{urlencode(query)}", **({"again": "true"} if again else {})}
    return RedirectResponse(f"{path}?{urlencode(asked)}", _SEE_OTHER)
