"""Takes ended containers away in the background: nothing of them runs any more, and nobody needs to wait for it.

What is left when this process ends, the next daemon removes, since its lease has ended.
"""

import logging
import queue
import threading

from node.daemon.containers import Containers
from node.daemon.engine import DOCKER_ERRORS

log = logging.getLogger(__name__)

_AT_ONCE = 2  # starts, for which somebody waits, need Docker too
_RETRY_S = 5.0


class Removals:
    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def add(self, container_id: str) -> None:
        self._waiting.put(container_id)
        with self._lock:
            if self._threads == _AT_ONCE:
                return
            self._threads += 1
        threading.Thread(target=self._run, name="removals", daemon=True).start()

    def _run(self) -> None:
        while True:
            container_id = self._waiting.get()
            try:
                self._containers.remove(container_id)
            except DOCKER_ERRORS as error:
                log.warning("container %s is not removed, tried again: %s", container_id[:12], error)
                threading.Event().wait(_RETRY_S)
                self._waiting.put(container_id)
