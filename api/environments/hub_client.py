"""The Hub's REST API, as far as the platform uses it: users and their named servers."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from api.settings import Settings

CONNECT_TIMEOUT_S = 2.0
TIMEOUT_S = 30.0  # the Hub answers a start at the latest after its `slow_spawn_timeout` (10 s)
MAX_CONNECTIONS = 32
# Answers of the spawner itself. A 503 is the Hub's or the platform's own trouble, and passes.
SPAWN_FAILURES = (
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.FAILED_DEPENDENCY,
)


class HubError(Exception):
    """The Hub did not do it: it is down, or refused. Trying again later may help."""


class SpawnFailed(HubError):
    """The Hub tried to start the server and could not."""


@dataclass(frozen=True, slots=True)
class HubServer:
    """A named server as the Hub knows it. `pending` is "spawn", "stop", "check" or None."""

    ready: bool
    pending: str | None

    @property
    def alive(self) -> bool:
        return self.ready or self.pending is not None


class Hub(Protocol):
    """What the reconciler needs of the Hub. Every method raises HubError and may be repeated."""

    def start_server(self, username: str, name: str) -> bool: ...

    def stop_server(self, username: str, name: str, *, remove: bool) -> bool: ...

    def server(self, username: str, name: str) -> HubServer | None: ...


class HubClient:
    """One per process; thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._client = httpx.Client(
            base_url=settings.hub_api_url,
            headers={"Authorization": f"token {settings.secret('hub_api_token')}"},
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            trust_env=False,
        )

    def start_server(self, username: str, name: str) -> bool:
        """Start a server, with its user made first if need be. False: an earlier one is still there.

        Raises:
            HubError, SpawnFailed
        """
        response = self._call("POST", _server(username, name), json={})
        if response.status_code == HTTPStatus.NOT_FOUND:
            self._expect(self._call("POST", f"/users/{quote(username)}"), HTTPStatus.CREATED, HTTPStatus.CONFLICT)
            response = self._call("POST", _server(username, name), json={})
        if response.status_code == HTTPStatus.BAD_REQUEST:
            return False  # running, or stopping
        if response.status_code in SPAWN_FAILURES:
            raise SpawnFailed(_message(response))
        self._expect(response, HTTPStatus.CREATED, HTTPStatus.ACCEPTED)
        return True

    def stop_server(self, username: str, name: str, *, remove: bool) -> bool:
        """Stop a server, and forget it with `remove`. True when it is gone, False while it stops.

        Raises:
            HubError
        """
        response = self._call("DELETE", _server(username, name), json={"remove": remove})
        if response.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
            return True
        self._expect(response, HTTPStatus.ACCEPTED, HTTPStatus.BAD_REQUEST)
        return False

    def server(self, username: str, name: str) -> HubServer | None:
        """What the Hub knows of a server; None if it does not know it.

        Raises:
            HubError
        """
        response = self._call("GET", _server(username, name))
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        self._expect(response, HTTPStatus.OK)
        model = response.json()
        return HubServer(ready=bool(model.get("ready")), pending=model.get("pending"))

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, *, json: Any = None) -> httpx.Response:  # Any: a JSON document
        try:
            return self._client.request(method, path, json=json)
        except httpx.HTTPError as error:
            raise HubError(f"{method} {path}: {type(error).__name__}: {error}") from error

    def _expect(self, response: httpx.Response, *statuses: HTTPStatus) -> None:
        if response.status_code not in statuses:
            request = response.request
            raise HubError(f"{request.method} {request.url.path}: {response.status_code} {response.text[:200]}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def _server(username: str, name: str) -> str:
    return f"/users/{quote(username)}/servers/{quote(name)}"
