"""The connection to Docker and the labels by which things are known as this host's."""

import threading
import time
from datetime import datetime
from typing import Any

import docker
import requests
from docker.transport import UnixHTTPAdapter

HOST_LABEL = "remotegpu.host"
ALLOCATION_LABEL = "remotegpu.allocation"
GENERATION_LABEL = "remotegpu.generation"
TASK_LABEL = "remotegpu.task"  # on containers that are reported as attempts
_CONNECTIONS = 32  # calls go side by side: DockerSpawner's own single thread is what makes many starts slow
_TIMEOUT_S = 90
_REMOVAL_TRIES, _REMOVAL_WAIT_S = 10, 0.2
_UNIX = "unix://"
_ANSWERED_S = 1.0  # for so long an answer stands for the next ones

DOCKER_ERRORS = (docker.errors.DockerException, requests.RequestException)

Json = dict[str, Any]  # Any: Docker's JSON


class _OneSocket(UnixHTTPAdapter):
    """Connections are used again: Docker's own adapter has a pool, and so a new connection, for each URL."""

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:  # Any: as the base class has them
        return super().get_connection("http+docker://localhost", proxies)


class Engine:
    """Docker's API for one host: everything made through it carries the host's label, nothing else is touched."""

    def __init__(self, base_url: str, host_id: str) -> None:
        self.host_id = host_id
        self.api = docker.APIClient(
            base_url=base_url, version="auto", timeout=_TIMEOUT_S, num_pools=4, max_pool_size=_CONNECTIONS
        )
        if base_url.startswith(_UNIX):
            socket = base_url.replace(_UNIX, "http+unix://", 1)
            self.api.mount("http+docker://", _OneSocket(socket, _TIMEOUT_S, max_pool_size=_CONNECTIONS))
        self._answered_at = 0.0

    @property
    def filters(self) -> dict[str, str]:
        return {"label": f"{HOST_LABEL}={self.host_id}"}

    def labels(self) -> dict[str, str]:
        return {HOST_LABEL: self.host_id}

    def containers(self) -> list[Json]:
        """This host's containers, running or not."""
        found: list[Json] = self.api.containers(all=True, filters=self.filters)
        return found

    def remove_container(self, name_or_id: str) -> None:
        """Kill it if it runs, and remove it with the nameless volumes of its image. Idempotent; named volumes stay.

        Raises:
            docker.errors.APIError
        """
        for attempt in range(_REMOVAL_TRIES):
            try:
                self.api.remove_container(name_or_id, force=True, v=True)
                return
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                # 409: Docker is removing it already.
                if error.status_code != 409 or attempt == _REMOVAL_TRIES - 1:
                    raise
                threading.Event().wait(_REMOVAL_WAIT_S)

    def answers(self) -> bool:
        """Now, or a second ago: each heartbeat asks."""
        now = time.monotonic()
        if now - self._answered_at < _ANSWERED_S:
            return True
        try:
            answered = bool(self.api.ping())
        except DOCKER_ERRORS:
            return False
        self._answered_at = now
        return answered


def docker_time_ms(text: str) -> float | None:
    """Docker's RFC 3339 time with nanoseconds as milliseconds of the wall clock; None for its zero."""
    if not text or text.startswith("0001-"):
        return None
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}+00:00").timestamp() * 1000 + float(f"0.{fraction or 0}") * 1000
