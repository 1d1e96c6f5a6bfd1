"""Problem documents: every error of the HTTP API leaves through here, in one form and with a stable code."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, ValidationException, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from psycopg import OperationalError as ReadFailure
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from api.errors import ApiError, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "2"
_MAX_ERRORS = 20
_log = logging.getLogger(__name__)

_CODES = {
    400: ("bad_request", "The request could not be read."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take that method; see the `Allow` header."),
    413: ("too_large", "The body is larger than this API takes."),
    415: ("unsupported_media_type", "The body's media type is not one that this endpoint takes."),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The value of an endpoint's `responses=` for the error statuses that it answers itself.

    401, 403, 413, 422, 429, 503, and 400 for a body that can't be read, are documented without being named.
    """
    return {status: problem_response(status) for status in statuses}


def problem_response(status: int) -> dict[str, Any]:
    """The OpenAPI response object of an error status."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document as a response."""
    document = Problem(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail, errors=errors)
    content = document.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(WebSocketRequestValidationError, _invalid)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(PoolTimeout, _database_away)
    app.add_exception_handler(ReadFailure, _database_away)
    app.add_exception_handler(Exception, _unhandled)


def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    headers = dict(error.headers or {})
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return problem(error.status, error.code, error.detail, errors=error.errors, headers=headers)


def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code, detail = _CODES.get(error.status_code, ("http_error", HTTPStatus(error.status_code).phrase))
    return problem(error.status_code, code, detail, headers=error.headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ValidationException)
    # The input itself is not repeated: it may be a password.
    errors = [
        {"loc": [str(part) for part in item["loc"]], "message": item["msg"], "type": item["type"]}
        for item in error.errors()[:_MAX_ERRORS]
    ]
    first = errors[0]
    detail = f"{'.'.join(first['loc'])}: {first['message']}"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "validation", detail, errors=errors)


def _unstorable(request: Request, error: Exception) -> JSONResponse:
    # The last net below the schemas' own bounds: a NUL byte or a number that PostgreSQL can't hold.
    _log.warning("%s %s: value refused by the database", request.method, request.url.path)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "validation", "A value can't be stored: a NUL byte, or too large.")


def _database_away(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s: the database does not answer: %s", request.method, request.url.path, error)
    detail = "The platform's database does not answer at the moment; try again."
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail, headers={"Retry-After": RETRY_AFTER_S})


def _unhandled(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "The platform failed to answer; its log says why. Try again later.",
    )
