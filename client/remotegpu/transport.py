"""HTTP to the platform: credentials, refresh, problem documents, pages, and bounded retries of what may be repeated."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import httpx
import msgspec

from remotegpu.errors import ApiError, ConnectionFailed, Mistake, NotFound, NotSignedIn, from_status
from remotegpu.models import Tokens

_PREFIX = "/api/v1"
_ATTEMPTS = 4
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_MAX_PAUSE_S = 10.0
_DOWNLOAD_PAUSE_S = 600.0  # what is downloaded may be sorted first

Model = TypeVar("Model")


class Transport:
    """One HTTP connection pool with one identity: an API key, or a pair of tokens that is refreshed when it expires.

    `on_tokens` is called with each new pair, so that a caller can keep it.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        tokens: Tokens | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        self._api_key = api_key
        self._tokens = tokens
        self._on_tokens = on_tokens
        self._http = httpx.Client(base_url=self.address, timeout=30.0, transport=transport)

    def close(self) -> None:
        self._http.close()

    def sign_in(self, username: str, password: str) -> Tokens:
        """Exchange a password for tokens and use them from now on.

        Raises:
            NotSignedIn: wrong name or password, or too many attempts.
        """
        reply = self._send("POST", "/auth/login", json={"username": username, "password": password}, signed=False)
        tokens = _decode(reply, Tokens)
        self._keep(tokens)
        return tokens

    def sign_out(self) -> None:
        if self._tokens is not None:
            self._send("POST", "/auth/logout", json={"refresh_token": self._tokens.refresh_token}, signed=False)
            self._tokens = None

    def get(self, path: str, kind: type[Model], **params: object) -> Model:
        return _decode(self._send("GET", path, params=_present(params)), kind)

    def pages(self, path: str, kind: type[Model], **params: object) -> Iterator[Model]:
        """Every item of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, dict[str, Any], **params, cursor=cursor)
            for item in page["items"]:
                yield msgspec.convert(item, kind)
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def download(self, path: str, **params: object) -> Iterator[bytes]:
        """The bytes of an answer as they come. A lost connection is not resumed.

        Raises:
            ConnectionFailed: also where it is lost in the middle.
        """
        try:
            for attempt in range(2):
                with self._open(path, _present(params)) as reply:
                    if reply.status_code != 401 or self._tokens is None or attempt:
                        yield from _content(reply)
                        return
                self.refresh()
        except httpx.TransportError as error:
            raise ConnectionFailed(f"{self.address} was lost: {error}") from error

    def _open(self, path: str, params: dict[str, Any]) -> AbstractContextManager[httpx.Response]:
        timeout = httpx.Timeout(30.0, read=_DOWNLOAD_PAUSE_S)
        return self._http.stream("GET", _PREFIX + path, params=params, headers=self.authorization(), timeout=timeout)

    def post(self, path: str, kind: type[Model], body: object = None) -> Model:
        """POST with an idempotency key of its own, so that a repetition after a lost reply creates nothing twice."""
        return _decode(self._send("POST", path, json=body, headers={"Idempotency-Key": str(uuid.uuid4())}), kind)

    def put(self, path: str, kind: type[Model], body: object) -> Model:
        return _decode(self._send("PUT", path, json=body), kind)

    def exists(self, path: str) -> bool:
        try:
            self._send("HEAD", path)
        except NotFound:
            return False
        return True

    def put_content(self, path: str, content: Iterable[bytes], *, size: int, media_type: str) -> None:
        """PUT `size` bytes. `content` is iterated anew if it has to be sent again."""
        headers = {"Content-Length": str(size), "Content-Type": media_type}
        self._send("PUT", path, content=content, headers=headers)

    def patch(self, path: str, kind: type[Model], body: object) -> Model:
        return _decode(self._send("PATCH", path, json=body), kind)

    def delete(self, path: str, **params: object) -> None:
        self._send("DELETE", path, params=_present(params))

    def _send(self, method: str, path: str, *, signed: bool = True, **arguments: Any) -> httpx.Response:
        reply = self._attempt(method, path, signed=signed, **arguments)
        if reply.status_code == 401 and signed and self._tokens is not None:
            self.refresh()
            reply = self._attempt(method, path, signed=signed, **arguments)
        if reply.is_success:
            return reply
        raise _error(reply)

    def _attempt(self, method: str, path: str, *, signed: bool, **arguments: Any) -> httpx.Response:
        headers = dict(arguments.pop("headers", {}))
        if signed:
            headers.update(self.authorization())
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                reply = self._http.request(method, _PREFIX + path, headers=headers, **arguments)
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    raise ConnectionFailed(f"{self.address} can't be reached: {error}") from error
                time.sleep(0.2 * 2**attempt)
                continue
            if reply.status_code not in _RETRIED_STATUSES or attempt == _ATTEMPTS or not signed:
                return reply
            time.sleep(_pause_s(reply, attempt))
        raise AssertionError("unreachable")

    def live_address(self, path: str) -> str:
        """The WebSocket address of a path: `ws://` where the platform's is `http://`."""
        return "ws" + self.address.removeprefix("http") + _PREFIX + path

    def authorization(self) -> dict[str, str]:
        token = self._api_key or (self._tokens.access_token if self._tokens else None)
        if token is None:
            raise NotSignedIn(status=401, code="unauthenticated", detail="Sign in first: remotegpu login ADDRESS")
        return {"Authorization": f"Bearer {token}"}

    @property
    def may_refresh(self) -> bool:
        """Whether a credential that is refused may have expired only."""
        return self._tokens is not None and self._api_key is None

    def refresh(self) -> None:
        """Exchange the tokens for new ones.

        Raises:
            NotSignedIn: they are no longer valid.
        """
        assert self._tokens is not None
        body = {"refresh_token": self._tokens.refresh_token}
        self._keep(_decode(self._send("POST", "/auth/refresh", json=body, signed=False), Tokens))

    def _keep(self, tokens: Tokens) -> None:
        self._tokens = tokens
        if self._on_tokens is not None:
            self._on_tokens(tokens)


def _present(params: dict[str, object]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _pause_s(reply: httpx.Response, attempt: int) -> float:
    try:
        asked = float(reply.headers.get("Retry-After", ""))
    except ValueError:
        asked = 0.2 * 2**attempt
    return min(max(asked, 0.0), _MAX_PAUSE_S)


def _decode(reply: httpx.Response, kind: type[Model]) -> Model:
    if kind is type(None) or not reply.content:
        return None  # type: ignore[return-value]  # callers ask for NoneType where there is no body
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except msgspec.MsgspecError as error:
        raise ConnectionFailed(f"{reply.url} did not answer as a RemoteGPU platform does: {error}") from error


def _content(reply: httpx.Response) -> Iterator[bytes]:
    if not reply.is_success:
        reply.read()
        raise _error(reply)
    yield from reply.iter_bytes()


def _error(reply: httpx.Response) -> ApiError:
    return problem_error(reply.status_code, reply.content, address=str(reply.url))


def problem_error(status: int, content: bytes, *, address: str) -> ApiError:
    """The error that a problem document tells of."""
    mistakes: list[Mistake] = []
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
        detail, code = str(problem["detail"]), str(problem["code"])
        for entry in problem.get("errors") or []:
            loc = tuple(str(part) for part in entry.get("loc", []) if part != "body")
            mistakes.append(Mistake(loc, str(entry.get("message", ""))))
    except (ValueError, KeyError, TypeError, AttributeError):
        detail, code = f"HTTP {status} from {address}", "unknown"
    detail += "".join(f"\n  {'.'.join(mistake.loc)}: {mistake.said}" for mistake in mistakes if mistake.loc)
    return from_status(status=status, code=code, detail=detail, mistakes=mistakes)
