"""`/ops/ray/`: the Ray dashboard behind an administrator's web session.

Only reading: the dashboard's port also takes jobs and other orders, which run code on the platform's own Ray. A
tenant's page may be the same site as the platform, so that the session's cookie comes along with what it requests:
everything but the first page must therefore come from the dashboard's own pages.
"""

from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from api.deps import SettingsDep
from api.errors import Forbidden, NotFound, Unavailable
from api.settings import Settings
from api.web.browser import LOGIN, WebUserDep, origin_of
from api.web.pages import page
from api.web.sessions import WebUser

router = APIRouter(include_in_schema=False)
PREFIX = "/ops/ray/"
_PASSED_ON = ("accept", "accept-language", "if-none-match", "if-modified-since", "range", "user-agent")
_PASSED_BACK = (
    "content-type", "content-length", "content-encoding", "content-range", "etag", "last-modified", "cache-control",
)  # fmt: skip
# GET requests of the dashboard that change something, or attach debuggers to processes.
_ORDERS = ("api/actors/kill", "worker/", "task/", "memory_profile", "test/", "api/packages")
_REFUSAL = "The Ray dashboard is for administrators who are signed in."
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_LIMITS = httpx.Limits(max_connections=32)
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
)


def dashboard_client(settings: Settings) -> httpx.AsyncClient:
    """The connection pool to the dashboard; closed with the application. It keeps no cookies: it serves everybody."""
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        base_url=settings.ray_dashboard_url,
        cookies=no_cookies,
        timeout=_TIMEOUT,
        limits=_LIMITS,
        trust_env=False,
        follow_redirects=False,
    )


@router.get("/ops/ray/{path:path}")
async def proxy(request: Request, path: str, user: WebUserDep, settings: SettingsDep) -> Response:
    """Pass a request of an administrator on to the dashboard and stream its answer back."""
    if user is None and path == "":
        return RedirectResponse(f"{LOGIN}?next={quote(PREFIX, safe='')}", 303)
    if path == "" and not _may_look(user):
        return page(request, "error.html", status=403, problem=_REFUSAL)
    _check(request, path, user, settings)
    client = cast(httpx.AsyncClient, request.app.state.ray_dashboard)
    headers = {name: value for name in _PASSED_ON if (value := request.headers.get(name)) is not None}
    headers["accept-encoding"] = request.headers.get("accept-encoding", "identity")
    headers["authorization"] = f"Bearer {settings.secret('ray_token')}"
    asked = client.build_request(
        "GET", f"/{quote(path)}", params=list(request.query_params.multi_items()), headers=headers
    )
    try:
        answer = await client.send(asked, stream=True)
    except httpx.HTTPError as error:
        raise Unavailable("The Ray dashboard does not answer.", code="ray_unavailable") from error
    sent = {name: value for name in _PASSED_BACK if (value := answer.headers.get(name)) is not None}
    sent |= {"content-security-policy": _POLICY, "referrer-policy": "same-origin"}
    return StreamingResponse(_stream(answer), status_code=answer.status_code, headers=sent)


async def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _may_look(user: WebUser | None) -> bool:
    return user is not None and user.is_admin and not user.must_change_password


def _check(request: Request, path: str, user: WebUser | None, settings: Settings) -> None:
    """Refuse what is not an administrator's own reading.

    Raises:
        Forbidden, NotFound
    """
    if not _may_look(user):
        raise Forbidden(_REFUSAL)
    if path == "":
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        ours = site == "same-origin"
    else:  # browsers send that header to https and localhost only
        ours = request.headers.get("referer", "").startswith(f"{origin_of(settings.public_url)}{PREFIX}")
    if not ours:
        raise Forbidden("This address is for the dashboard's own pages.", code="cross_site")
    parts = path.split("/")
    if "" in parts[:-1] or "." in parts or ".." in parts or path.startswith(_ORDERS):
        raise NotFound("The dashboard is for reading only.")
