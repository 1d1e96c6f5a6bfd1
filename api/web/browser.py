"""What a browser sends and keeps: the session cookie, CSRF tokens, forms, and where a request came from.

One cookie, host-only, HttpOnly and SameSite=Strict. A top-level navigation from another site (a Hub on another domain
sends its users to `/oauth/authorize`) arrives without it; that endpoint then answers with a page that loads the same
address again from our own origin, so that the cookie comes along (`again.html`). A Lax cookie would not need that, but
would also come along with every link that a tenant's page makes somebody click.

SameSite does not keep out a tenant's page on a subdomain of ours, which is the same site. That is why every form has a
CSRF token, bound to a cookie that such a page can't read, and every POST must come from our own origin.

Cookies know no ports: what is set here also goes to the Hub on another port of the same host name, and through its
proxy to tenants' servers. So the cookies are for the paths of our pages only, which that proxy sends to no tenant; see
docs/decisions/0001-cookies-know-no-ports.md.
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

HOME = "/account/"
LOGIN = "/account/login"
LOGOUT = "/account/logout"
PASSWORD = "/account/password"
_COOKIE_PATHS = ("/account", "/oauth", "/ops")
_MAX_FIELDS = 50


def session_cookie(settings: Settings) -> str:
    """The cookie's name, with the prefix that makes browsers guard it as far as they can."""
    return f"{_prefix(settings)}rg_session"


def visit_cookie(settings: Settings) -> str:
    """The cookie to which the CSRF token of the sign-in form is bound."""
    return f"{_prefix(settings)}rg_visit"


def cookie(request: Request, name: str) -> str | None:
    """The value of one of our cookies.

    Raises:
        BadRequest: `cookies`: it came twice, so somebody else on this host name has set one too, and which is ours
            can't be told.
    """
    sent = ";".join(request.headers.getlist("cookie")).split(";")
    if sum(pair.partition("=")[0].strip() == name for pair in sent) > 1:
        raise BadRequest("Another page has set a cookie of ours. Delete this address's cookies.", code="cookies")
    return request.cookies.get(name)


def set_cookie(response: Response, settings: Settings, name: str, value: str) -> None:
    """A cookie of the browser's session: host-only, out of reach of scripts, of other sites and of tenants' servers."""
    secure = _is_secure(settings)
    for path in _cookie_paths(settings):
        response.set_cookie(name, value, httponly=True, samesite="strict", secure=secure, path=path)


def drop_cookie(response: Response, settings: Settings, name: str) -> None:
    secure = _is_secure(settings)
    for path in _cookie_paths(settings):
        response.delete_cookie(name, httponly=True, samesite="strict", secure=secure, path=path)


def _is_secure(settings: Settings) -> bool:
    return settings.public_url.startswith("https://")


def _has_own_host(settings: Settings) -> bool:
    return urlsplit(settings.public_url).hostname != urlsplit(settings.hub_url).hostname


def _prefix(settings: Settings) -> str:
    """`__Host-`: no subdomain can set it; but it demands the path `/`, which on a shared host leads to tenants."""
    if not _is_secure(settings):
        return ""
    return "__Host-" if _has_own_host(settings) else "__Secure-"


def _cookie_paths(settings: Settings) -> tuple[str, ...]:
    return ("/",) if _prefix(settings) == "__Host-" else _COOKIE_PATHS


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
    secrets = [secret for name in names if (secret := cookie(request, name))]
    given = form.get("csrf", "")
    if not any(hmac.compare_digest(csrf_token(secret).encode(), given.encode()) for secret in secrets):
        raise Forbidden("The form is too old; load the page again.", code="csrf")


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def local_path(target: str | None) -> str:
    """`target` if it is a path of ours, our start page else: nobody is sent elsewhere after signing in."""
    if not target or len(target) > 4000 or not target.startswith("/") or target.startswith("//"):
        return HOME
    if "\\" in target or any(ord(character) < 33 for character in target):
        return HOME
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
    return find(database, cookie(request, session_cookie(settings)), address=address)


FormDep = Annotated[dict[str, str], Depends(_form)]
WebUserDep = Annotated[WebUser | None, Depends(_web_user)]
