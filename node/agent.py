"""The agent of one host in Ray: passes operations to the daemon and ships its usage. It holds no state of its own."""

import logging
import os
import threading
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter

from node.daemon.config import HostDirectory, read_config
from node.platform import Platform, PlatformUnavailableError
from scheduler.host_protocol import MAX_BATCH, UsageBatch

log = logging.getLogger(__name__)

_TIMEOUT_S = 150.0  # the longest grace and Docker's own time
_SHIP_S = 1.0
_MAX_BACK_OFF_S = 30.0
_BATCHES = TypeAdapter(UsageBatch)


class Agent:
    """Made a Ray actor by the controller. It finds its host's directory by `REMOTEGPU_HOST_DIR`."""

    def __init__(self, host_dir: str | None = None) -> None:
        self._directory = HostDirectory(Path(host_dir or os.environ["REMOTEGPU_HOST_DIR"]))
        config = read_config(self._directory)
        self._host_id = config.host_id
        transport = httpx.HTTPTransport(uds=str(self._directory.socket), limits=httpx.Limits(max_connections=64))
        self._daemon = httpx.Client(transport=transport, base_url="http://daemon", timeout=_TIMEOUT_S)
        self._platform = Platform(config, self._directory)
        self._stopped = threading.Event()
        self._shipper = threading.Thread(target=self._ship, name="ship", daemon=True)
        self._shipper.start()

    def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """The daemon's answer, `{"status", "body"}`; 503 `host_unreachable` when it gives none."""
        try:
            reply = self._daemon.post(f"/v1/{operation}", json=body)
            return {"status": reply.status_code, "body": reply.json()}
        except (httpx.HTTPError, ValueError) as error:
            problem = {"code": "host_unreachable", "detail": f"the host's daemon does not answer: {error}"}
            return {"status": 503, "body": problem}

    def ping(self) -> dict[str, Any]:
        return {"host_id": self._host_id, "pid": os.getpid()}

    def close(self) -> None:
        self._stopped.set()
        self._shipper.join(timeout=_SHIP_S * 5)
        self._daemon.close()
        self._platform.close()

    def _ship(self) -> None:
        wait_s = _SHIP_S
        while not self._stopped.wait(wait_s):
            try:
                while self.ship_once() == MAX_BATCH:
                    pass
                wait_s = _SHIP_S
            except (PlatformUnavailableError, httpx.HTTPError, ValueError, KeyError) as error:
                log.warning("usage waits: %s", error)
                wait_s = min(2 * wait_s, _MAX_BACK_OFF_S)

    def ship_once(self) -> int:
        """Ship the oldest batch; the number of windows in it.

        Raises:
            PlatformUnavailableError, httpx.HTTPError
        """
        read = self._daemon.post("/v1/spool_read", json={"limit": MAX_BATCH}).raise_for_status()
        batch = _BATCHES.validate_json(read.content)
        if batch.windows:
            receipt = self._platform.usage(batch)
            accepted = {"boot_id": receipt.boot_id, "through": receipt.accepted_through}
            self._daemon.post("/v1/spool_ack", json=accepted).raise_for_status()
        return len(batch.windows)
