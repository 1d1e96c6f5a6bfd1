"""Answers as Ray's clients take them: errors are plain text with Ray's statuses. Browsers may change nothing."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from api.errors import ApiError, MethodNotAllowed

# Others that are the client's mistake are 400 in Ray.
_KEPT = frozenset({401, 403, 404, 405, 408, 413, 429})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What browsers send, and scripts in them can't leave out.
_BROWSERS = (
    "origin", "referer", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-site", "sec-fetch-user",
    "access-control-request-method", "access-control-request-headers",
)  # fmt: skip


class PlainRoute(APIRoute):
    """A route whose errors are plain text, if they are the client's. The platform's own are problem documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def plain(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"][1:])
                return _text(400, f"{place}: {first['msg']}" if place else first["msg"])
            except DataError:
                return _text(400, "A value can't be stored: a NUL byte, or text that is none.")
            except HTTPException as error:
                return _text(error.status_code, error.detail)
            except ApiError as error:
                if error.status >= 500:
                    raise
                return _text(error.status, error.detail, error.headers)

        return plain


def texts(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The value of an endpoint's `responses=`: those error statuses, and those of all, in plain text."""
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {status: {"description": "Refused", "content": content} for status in (400, 401, 403, 429, *statuses)}


async def _no_browsers(request: Request) -> None:
    """Ray's protection against pages that make a browser send requests: nothing here is for browsers."""
    if request.method in _READING:
        return
    agent = request.headers.get("user-agent", "")
    if agent.startswith("Mozilla") or any(name in request.headers for name in _BROWSERS):
        raise MethodNotAllowed(f"'{request.method}' method not allowed for browser traffic.")


NoBrowsers = Depends(_no_browsers)


def _text(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return PlainTextResponse(detail, status if status in _KEPT else 400, headers)
