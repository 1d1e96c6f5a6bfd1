"""Rendering the platform's pages."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from api.settings import Settings
from api.web.browser import cookie, csrf_token, new_visit, origin_of, session_cookie, set_cookie, visit_cookie

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_environment = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page with a strict content security policy, and a CSRF token for its forms."""
    settings: Settings = request.app.state.settings
    secret = cookie(request, session_cookie(settings)) or cookie(request, visit_cookie(settings))
    visit = None if secret else new_visit()
    values = {"csrf": csrf_token(secret or visit or ""), "hub_url": settings.hub_url, "user": None, **values}
    response = HTMLResponse(_environment.get_template(template).render(**values), status_code=status)
    if visit is not None:
        set_cookie(response, settings, visit_cookie(settings), visit)
    response.headers["content-security-policy"] = _policy(settings)
    return response


def _policy(settings: Settings) -> str:
    # Browsers hold the redirects that follow a form to `form-action` too: signing in ends at the Hub.
    hub = urlsplit(settings.hub_url)
    users = f" {hub.scheme}://*.{hub.netloc}" if settings.hub_subdomains else ""
    return (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self' {origin_of(settings.hub_url)}{users}"
    )
