"""What a browser sends and keeps: the session cookie, CSRF tokens, forms, and where a request came from.

One cookie, host-only, HttpOnly and SameSite=Strict. A top-level navigation from another site (a Hub on another domain
sends its users to `/oauth/authorize`) arrives without it; that endpoint then answers with a page that loads the same
address again from our own origin, so that the cookie comes along (`again.html`). A Lax cookie would not need that, but
would also come along with every link that a tenant's page makes somebody click.

SameSite does not keep out a tenant's page on a subdomain of ours, which is the same site. That is why every form has a
CSRF token, bound to a cookie that such a page can't read, and every POST must come from our own origin.
"""

import hashlib
import hmac
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request, Response

from api.deps import DatabaseDep, SettingsDep
from api.errors import BadRequest, Forbidden
from api.identity.tokens import new_secret
from api.settings import Settings
from api.web.sessions import WebUser, find

_MAX_FIELDS = 50


def session_cookie(settings: Settings) -> str:
    """The cookie's name. With `__Host-`, browsers let no subdomain set it."""
    return "__Host-rg_session" if is_secure(settings) else "rg_session"


def visit_cookie(settings: Settings) -> str:
    """The cookie to which the CSRF token of the sign-in form is bound."""
    return "__Host-rg_visit" if is_secure(settings) else "rg_visit"


def is_secure(settings: Settings) -> bool:
    return settings.public_url.startswith("https://")


def set_cookie(response: Response, settings: Settings, name: str, value: str) -> None:
    """A cookie of the browser's session: host-only, out of reach of scripts and of other sites."""
    response.set_cookie(name, value, httponly=True, samesite="strict", secure=is_secure(settings), path="/")


def drop_cookie(response: Response, settings: Settings, name: str) -> None:
    response.delete_cookie(name, httponly=True, samesite="strict", secure=is_secure(settings), path="/")


def csrf_token(secret: str) -> str:
    """The token of forms that go with a cookie's secret: whoever can't read the cookie can't make it."""
    return hashlib.sha256(f"csrf:{secret}".encode()).hexdigest()


def check_form(request: Request, settings: Settings, form: dict[str, str]) -> None:
    """Refuse a form that was not ours.

    Raises:
        Forbidden: `csrf`.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin != origin_of(settings.public_url):
        raise Forbidden("The form came from another site.", code="csrf")
    names = (session_cookie(settings), visit_cookie(settings))
    secrets = [secret for name in names if (secret := request.cookies.get(name))]
    given = form.get("csrf", "")
    if not any(hmac.compare_digest(csrf_token(secret).encode(), given.encode()) for secret in secrets):
        raise Forbidden("The form is too old; load the page again.", code="csrf")


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def local_path(target: str | None) -> str:
    """`target` if it is a path of ours, `/` else: nobody is sent elsewhere after signing in."""
    if not target or len(target) > 4000 or not target.startswith("/") or target.startswith("//"):
        return "/"
    if "\\" in target or any(ord(character) < 33 for character in target):
        return "/"
    return target


def new_visit() -> str:
    return new_secret()


async def _form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form; of a repeated one the first."""
    try:
        pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise BadRequest("The form could not be read.") from error
    fields: dict[str, str] = {}
    for name, value in pairs:
        if "\x00" in name + value:
            raise BadRequest("The form holds a NUL character.")
        fields.setdefault(name, value)
    return fields


def _web_user(request: Request, database: DatabaseDep, settings: SettingsDep) -> WebUser | None:
    address = request.client.host if request.client is not None else None
    return find(database, request.cookies.get(session_cookie(settings)), address=address)


FormDep = Annotated[dict[str, str], Depends(_form)]
WebUserDep = Annotated[WebUser | None, Depends(_web_user)]
