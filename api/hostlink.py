"""Typed operations of a host, sent through the controller's Unix socket and from there over Ray to the host's agent."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from api.errors import Unavailable

CONNECT_TIMEOUT_S = 2.0
MAX_CONNECTIONS = 64


class Hosts(Protocol):
    """What the control plane's loops need of the hosts: a `Hostlink`, or the controller's own way to the agents."""

    def call(
        self, host_uid: str, operation: str, body: Mapping[str, Any], *, timeout_s: float = ...
    ) -> tuple[int, Any]:
        """Any: JSON in, JSON out. Raises Unavailable when the host does not answer."""


class HostUnreachable(Unavailable):
    code = "host_unreachable"


class Hostlink:
    """One per process; thread-safe. What a host runs is unknown, not gone, while it can't be reached."""

    def __init__(self, socket: Path) -> None:
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=16, keepalive_expiry=30)
        transport = httpx.HTTPTransport(uds=str(socket), limits=limits)
        self._client = httpx.Client(transport=transport, base_url="http://hostlink")
        self._socket = socket

    def call(
        self, host_uid: str, operation: str, body: Mapping[str, Any], *, timeout_s: float = 30.0
    ) -> tuple[int, Any]:
        """Run an operation of the host's daemon; its status code and its JSON answer.

        Raises:
            HostUnreachable: the controller, the agent or the daemon did not answer in time.
        """
        if not self._socket.exists():
            raise HostUnreachable("The controller is not running now; try again later.")
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            response = self._client.post(f"/v1/hosts/{host_uid}/{operation}", json=dict(body), timeout=timeout)
            answer = response.json() if response.content else {}
        except (httpx.HTTPError, ValueError) as error:
            raise HostUnreachable(f"The host does not answer now ({type(error).__name__}); try again later.") from error
        if response.status_code == 503:
            raise HostUnreachable(_detail(answer))
        return response.status_code, answer

    def metrics(self) -> bytes | None:
        """What the controller tells Prometheus; None if it does not answer now."""
        if not self._socket.exists():
            return None
        try:
            response = self._client.get("/metrics", timeout=CONNECT_TIMEOUT_S)
        except httpx.HTTPError:
            return None
        return response.content if response.status_code == httpx.codes.OK else None

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _detail(answer: object) -> str:
    if isinstance(answer, dict) and isinstance(answer.get("detail"), str):
        return str(answer["detail"])
    return "The host does not answer now; try again later."
