"""Errors of the SDK: one hierarchy, by what the caller can do about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with a request: where in its body, and in words."""

    loc: tuple[str, ...]
    said: str


class RemoteGpuError(Exception):
    """Base of all errors of this package."""


class ConnectionFailed(RemoteGpuError):
    """The platform could not be reached, or answered with something that is not its API."""


class ApiError(RemoteGpuError):
    """The platform refused. `code` is stable, `detail` says what to do, `mistakes` what is wrong where."""

    def __init__(self, *, status: int, code: str, detail: str, mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.mistakes = tuple(mistakes)


class NotSignedIn(ApiError):
    """No credential, or one that is no longer valid (401)."""


class NotAllowed(ApiError):
    """The credential is valid but may not do this (403)."""


class NotFound(ApiError):
    """There is no such thing, or it belongs to another customer (404)."""


class Refused(ApiError):
    """The request can't be met as it is: a bad value, a limit, a conflict (other 4xx)."""


class ServerFailed(ApiError):
    """The platform failed or is not ready (5xx); the same request may succeed later."""


def from_status(*, status: int, code: str, detail: str, mistakes: Sequence[Mistake] = ()) -> ApiError:
    """The error class for an HTTP status."""
    by_status: dict[int, type[ApiError]] = {401: NotSignedIn, 403: NotAllowed, 404: NotFound}
    kind = by_status.get(status, ServerFailed if status >= 500 else Refused)
    return kind(status=status, code=code, detail=detail, mistakes=mistakes)
