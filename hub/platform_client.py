"""The Hub's line to the platform: `/internal/hub/*` over mutual TLS, with bounded time and retries."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

Json = dict[str, Any]  # Any: JSON of the platform or of Docker, checked where it is used

_TRIES = 3
_FIRST_PAUSE_S = 0.1  # doubled after each try
_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_CONNECTIONS = 200  # a long poll holds one for as long as a start waits


class PlatformError(Exception):
    """The platform answered with an error. `code` is the problem document's stable code."""

    def __init__(self, status: int, code: str, detail: str, problem: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.problem = problem


class PlatformUnreachable(Exception):
    """The platform did not answer, or had no answer to give (5xx without a problem of ours), after all retries."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why an environment waits. `position` in the queue counts from 1, None outside the queue.

    `eta_basis` says what `eta` rests on: "reservation", "limits", "estimate", "history", or "unknown" without one.
    """

    code: str
    detail: str
    position: int | None
    eta: datetime | None = None
    eta_basis: str = "unknown"

    @classmethod
    def parse(cls, answer: Json) -> "Wait":
        eta = answer.get("eta")
        return cls(
            code=str(answer["code"]),
            detail=str(answer["detail"]),
            position=answer.get("position"),
            eta=datetime.fromisoformat(eta) if eta else None,
            eta_basis=str(answer.get("eta_basis") or "unknown"),
        )


@dataclass(frozen=True, slots=True)
class ServerView:
    """An environment as the platform sees it; `version` rises with every change."""

    environment_id: str
    version: int
    observed: str
    desired: str
    allocation_state: str | None
    host: str | None
    container_name: str | None
    image: str | None
    cpu_milli: int | None
    memory_bytes: int | None
    last_error: str | None
    wait: Wait | None
    devices: tuple[Json, ...] = ()

    @classmethod
    def parse(cls, answer: Json) -> "ServerView":
        known = {field.name: answer.get(field.name) for field in fields(cls)}
        wait = answer.get("wait")
        known["wait"] = Wait.parse(wait) if wait else None
        known["devices"] = tuple(answer.get("devices") or ())
        return cls(**known)  # type: ignore[arg-type]  # the values are the platform's JSON

    @property
    def active(self) -> bool:
        """Whether its devices are held and its container may run."""
        return self.allocation_state == "active" and self.container_name is not None

    @property
    def over(self) -> bool:
        """Whether it stopped, and nobody asks for it to run again."""
        return self.observed in ("stopped", "failed", "deleted") and self.allocation_state in (None, "released")


class PlatformClient:
    """One per Hub process; its connections are kept open, so that a call costs no TLS handshake."""

    def __init__(self, base_url: str, secrets_dir: Path) -> None:
        context = ssl.create_default_context(cafile=str(secrets_dir / "ca.pem"))
        context.load_cert_chain(secrets_dir / "hub.pem", secrets_dir / "hub.key")
        self._http = httpx.AsyncClient(
            base_url=base_url,
            verify=context,
            timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=_TIMEOUT_S),
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            trust_env=False,
        )

    async def options(self, username: str) -> Json:
        """What this user may start: images, models with free counts and prices, balance."""
        answer: Json = await self._call("GET", "/internal/hub/options", params={"username": username})
        return answer

    async def run_time(self, username: str) -> Json | None:
        """How long the money of this user's customer lasts for what runs, and the warnings; None: an administrator."""
        answer: Json | None = await self._call("GET", "/internal/hub/run-time", params={"username": username})
        return answer

    async def password_changed_at(self, username: str) -> datetime | None:
        """When this user, who is let in, changed the password; None: never.

        Raises:
            PlatformError: `account_disabled` or `no_such_user`: who is not let in any more.
        """
        answer = await self._call("GET", f"/internal/hub/users/{quote(username, safe='')}")
        changed_at = answer["password_changed_at"]
        return datetime.fromisoformat(changed_at) if changed_at else None

    async def servers(self, username: str) -> list[Json]:
        """The user's environments by name, however they were made; fields as in the platform's `ServerEntry`."""
        answer = await self._call("GET", f"/internal/hub/servers/{quote(username, safe='')}")
        entries: list[Json] = answer["items"]
        return entries

    async def start(self, username: str, name: str, options: Mapping[str, Any]) -> ServerView:
        """Create the environment, or start it again, and queue it. Idempotent while it is on its way."""
        body = {"options": dict(options)} if options else {}
        return ServerView.parse(await self._call("POST", f"{_server(username, name)}/start", body=body))

    async def view(self, username: str, name: str) -> ServerView:
        return ServerView.parse(await self._call("GET", _server(username, name)))

    async def next_view(self, username: str, name: str, *, seen: int, wait_s: float) -> ServerView:
        """The next view whose version is not `seen`, or the same after `wait_s` seconds."""
        params = {"seen": str(seen), "wait_s": f"{wait_s:.0f}"}
        answer = await self._call("GET", _server(username, name), params=params, timeout_s=wait_s + _TIMEOUT_S)
        return ServerView.parse(answer)

    async def stop(self, username: str, name: str, container: str = "") -> ServerView:
        """Desired: stopped. If a container is named, only while it is the current one."""
        body = {"container_name": container} if container else {}
        return ServerView.parse(await self._call("POST", f"{_server(username, name)}/stop", body=body))

    async def failed(self, username: str, name: str, container: str, error: str) -> None:
        """The start, or the server, of this container came to nothing. Of another one's it changes nothing."""
        body = {"container_name": container, "error": error}
        await self._call("POST", f"{_server(username, name)}/failed", body=body)

    async def ready(self, username: str, name: str) -> None:
        await self._call("POST", f"{_server(username, name)}/ready", body={})

    async def docker(self, username: str, name: str, operation: str, arguments: Json) -> Any:
        """Docker's own answer (Any: its shape is the operation's) to one operation on this environment's container."""
        timeout_s = _TIMEOUT_S + float(arguments.get("timeout") or 0)
        path = f"{_server(username, name)}/docker/{operation}"
        return await self._call("POST", path, body=arguments, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Json | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Any:  # the JSON of the answer
        # Every call may be repeated: starts and stops are idempotent, and a container's name makes its creation so.
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                response = await self._http.request(method, path, params=params, json=body, timeout=timeout)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                return response.json() if response.content else None
            refused = _refusal(response)
            if refused is not None:
                raise refused
            problem = f"HTTP {response.status_code}"
        raise PlatformUnreachable(f"{method} {path}: {problem}")


def _server(username: str, name: str) -> str:
    return f"/internal/hub/servers/{quote(username, safe='')}/{quote(name, safe='')}"


def _refusal(response: httpx.Response) -> PlatformError | None:
    """The platform's own error, or None where something failed that may be tried again."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        code = problem["code"]
        if response.status_code < 500 or code == "host_unreachable":
            detail = str(problem.get("detail") or problem.get("title") or code)
            return PlatformError(response.status_code, code, detail, problem)
    if response.status_code < 500:
        return PlatformError(response.status_code, "http_error", f"HTTP {response.status_code}", {})
    return None
