"""Wakes the leader when the database says that something changed. A hint: the tick is the truth."""

import logging
import threading

import psycopg

log = logging.getLogger(__name__)

_POLL_S = 0.5
_RETRY_S = 1.0


class Wakeup:
    """A thread that listens on PostgreSQL channels and sets an event."""

    def __init__(self, conninfo: str, channels: tuple[str, ...]) -> None:
        self._conninfo = conninfo
        self._channels = channels
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wakeup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()
        self._thread.join(timeout=4 * _POLL_S)

    def wake(self) -> None:
        self._woken.set()

    def wait(self, timeout_s: float) -> None:
        """Return when woken, or after `timeout_s`."""
        self._woken.wait(timeout_s)
        self._woken.clear()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except psycopg.OperationalError as error:
                log.warning("listening for changes failed, trying again: %s", error)
                self._stopped.wait(_RETRY_S)

    def _listen(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5) as connection:
            for channel in self._channels:
                connection.execute(psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(channel)))
            while not self._stopped.is_set():
                for _ in connection.notifies(timeout=_POLL_S, stop_after=1):
                    self._woken.set()
