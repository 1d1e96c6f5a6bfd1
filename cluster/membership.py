"""Which hosts are alive in Ray, polled; and the proof that this driver still has its Ray."""

import threading
import time
from collections.abc import Callable, Mapping

import ray

from node.ray_settings import HOST_LABEL


class Membership:
    """The last poll, for any thread to read.

    A driver whose raylet or head is gone does not get an error: its calls hang. So one thread polls, and `lost_s`
    says how long ago a poll last succeeded with this driver's own node alive.
    """

    def __init__(self, own_node_id: str, *, interval_s: float = 0.5) -> None:
        self._own_node_id = own_node_id
        self._interval_s = interval_s
        self._hosts: Mapping[str, str] = {}
        self._proved_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-membership", daemon=True)

    def start(self) -> None:
        """Poll once, then go on in a thread."""
        self.poll()
        self._thread.start()

    def stop(self) -> None:
        """A poll that hangs in Ray is left behind: its thread is a daemon."""
        self._stopped.set()
        self._thread.join(timeout=2 * self._interval_s)

    @property
    def hosts(self) -> Mapping[str, str]:
        """Ray node id by host uid."""
        return self._hosts

    @property
    def lost_s(self) -> float:
        return time.monotonic() - self._proved_at

    def poll(self) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._hosts = {node["Labels"][HOST_LABEL]: node["NodeID"] for node in nodes if HOST_LABEL in node["Labels"]}
        if any(node["NodeID"] == self._own_node_id for node in nodes):
            self._proved_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self.poll()
            except Exception:  # Ray raises what it likes here; being unproved is what counts
                continue


def watch(membership: Membership, *, limit_s: float, on_loss: Callable[[], None]) -> threading.Thread:
    """Call `on_loss` once from a thread of its own when Ray has been lost for `limit_s`."""

    def run() -> None:
        while membership.lost_s < limit_s:
            time.sleep(0.25)
        on_loss()

    thread = threading.Thread(target=run, name="ray-watchdog", daemon=True)
    thread.start()
    return thread
