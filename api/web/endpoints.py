"""The platform's pages: signing in and out, the password, and where to go from there."""

from typing import Annotated, cast
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from api.db import Database
from api.deps import AddressDep, DatabaseDep, SettingsDep
from api.errors import ApiError, TooManyRequests
from api.identity.endpoints import change_password
from api.identity.login import prove_password
from api.identity.passwords import MAX_CHARS, MIN_CHARS
from api.rate_limit import RateLimits
from api.settings import Settings
from api.web import sessions
from api.web.browser import (
    HOME,
    LOGIN,
    LOGOUT,
    PASSWORD,
    FormDep,
    WebUserDep,
    check_form,
    drop_cookie,
    local_path,
    session_cookie,
    set_cookie,
    visit_cookie,
)
from api.web.pages import STATIC, page

router = APIRouter(include_in_schema=False)
NextQuery = Annotated[str | None, Query(alias="next", max_length=4000)]
_SEE_OTHER = 303


@router.get("/")
def root() -> Response:
    """To the start page, which is where the session's cookie is."""
    return RedirectResponse(HOME, _SEE_OTHER)


@router.get(HOME)
def home(request: Request, user: WebUserDep) -> Response:
    """Where to go from here."""
    if user is None:
        return RedirectResponse(LOGIN, _SEE_OTHER)
    if user.must_change_password:
        return RedirectResponse(PASSWORD, _SEE_OTHER)
    return page(request, "home.html", user=user)


@router.get("/static/style.css")
def style() -> FileResponse:
    """The one style sheet."""
    return FileResponse(STATIC / "style.css", media_type="text/css", headers={"cache-control": "public, max-age=3600"})


@router.get(LOGIN)
def login_page(request: Request, user: WebUserDep, target: NextQuery = None, again: bool = False) -> Response:
    """The sign-in form; straight on for who is signed in, unless a fresh sign-in is asked for."""
    if user is not None and not again:
        return _onwards(user.must_change_password, local_path(target))
    return page(request, "login.html", target=local_path(target), username="", problem=None)


@router.post(LOGIN)
def login(
    request: Request, before: WebUserDep, form: FormDep, database: DatabaseDep, settings: SettingsDep,
    address: AddressDep,
) -> Response:  # fmt: skip
    """Sign in and go on; a session that this browser had ends."""
    target, username = local_path(form.get("next")), form.get("username", "")[:64]
    try:
        check_form(request, settings, form)
        cast(RateLimits, request.app.state.rate_limits).hit_sign_in(address)
        password = form.get("password", "")[:MAX_CHARS]
        proven = prove_password(database, username=username, password=password, address=address)
    except ApiError as error:
        values = {"target": target, "username": username, "problem": error.detail}
        refused = page(request, "login.html", status=error.status, **values)
        if isinstance(error, TooManyRequests):
            refused.headers.update(error.headers or {})
        return refused
    if before is not None:
        sessions.end(database, before)
    response = _onwards(proven.must_change_password, target)
    _sign_in(response, database, settings, user_id=proven.user_id, address=address)
    return response


@router.get(PASSWORD)
def password_page(request: Request, user: WebUserDep, target: NextQuery = None) -> Response:
    """The form for a new password."""
    if user is None:
        return RedirectResponse(f"{LOGIN}?" + urlencode({"next": PASSWORD}), _SEE_OTHER)
    return page(request, "password.html", user=user, target=local_path(target), problem=None)


@router.post(PASSWORD)
def password(
    request: Request, user: WebUserDep, form: FormDep, database: DatabaseDep, settings: SettingsDep,
    address: AddressDep,
) -> Response:  # fmt: skip
    """Set a new password; every other session of the user ends, and this one is replaced."""
    if user is None:
        return RedirectResponse(LOGIN, _SEE_OTHER)
    target, new = local_path(form.get("next")), form.get("new_password", "")
    try:
        check_form(request, settings, form)
        cast(RateLimits, request.app.state.rate_limits).hit_sign_in(address)
        problem = _unfit(new, form.get("repeat_password", ""))
        if problem is None:
            current = form.get("current_password", "")[:MAX_CHARS]
            change_password(database, user.principal, current=current, new=new)
    except ApiError as error:
        return page(request, "password.html", status=error.status, user=user, target=target, problem=error.detail)
    if problem is not None:
        return page(request, "password.html", status=422, user=user, target=target, problem=problem)
    response = RedirectResponse(target, _SEE_OTHER)
    _sign_in(response, database, settings, user_id=user.principal.user_id, address=address)
    return response


@router.get(LOGOUT)
def logout_page(request: Request, user: WebUserDep) -> Response:
    """Asks first: a link alone signs nobody out."""
    if user is None:
        return RedirectResponse(LOGIN, _SEE_OTHER)
    return page(request, "logout.html", user=user, action=LOGOUT, query="")


@router.post(LOGOUT)
def logout(request: Request, user: WebUserDep, form: FormDep, database: DatabaseDep, settings: SettingsDep) -> Response:
    """Sign out here."""
    try:
        check_form(request, settings, form)
    except ApiError as error:
        return page(request, "error.html", status=error.status, problem=error.detail)
    response = RedirectResponse(LOGIN, _SEE_OTHER)
    if user is not None:
        sessions.end(database, user)
    drop_cookie(response, settings, session_cookie(settings))
    return response


def _onwards(must_change_password: bool, target: str) -> Response:
    if must_change_password:
        return RedirectResponse(f"{PASSWORD}?" + urlencode({"next": target}), _SEE_OTHER)
    return RedirectResponse(target, _SEE_OTHER)


def _sign_in(response: Response, database: Database, settings: Settings, *, user_id: int, address: str) -> None:
    secret = sessions.open_web_session(database, settings, user_id=user_id, address=address)
    set_cookie(response, settings, session_cookie(settings), secret)
    drop_cookie(response, settings, visit_cookie(settings))


def _unfit(password: str, repeated: str) -> str | None:
    if password != repeated:
        return "The two new passwords differ."
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        return f"The new password must have from {MIN_CHARS} to {MAX_CHARS} characters."
    return None
