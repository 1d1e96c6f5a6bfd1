"""Waiting for an environment to change: one listening connection per process wakes every long poll.

NOTIFY is a hint; each waiter also looks again by itself.
"""

import asyncio
import logging
import threading
from collections import defaultdict

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from api.db import Database

CHANNEL = "environments"
LISTEN_FOR_S = 0.5
RECONNECT_AFTER_S = 1.0

_log = logging.getLogger(__name__)


class ChangeFeed:
    """Started with the application's event loop and stopped with it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopping = threading.Event()
        self._waiting: dict[int, set[asyncio.Event]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen; called on the event loop that will wait."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="environment-changes", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def watch(self, environment_id: int) -> asyncio.Event:
        """An event that is set at the environment's next change. Give it back with `unwatch`."""
        event = asyncio.Event()
        self._waiting[environment_id].add(event)
        return event

    def unwatch(self, environment_id: int, event: asyncio.Event) -> None:
        self._waiting[environment_id].discard(event)
        if not self._waiting[environment_id]:
            del self._waiting[environment_id]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, SQLAlchemyError, OSError) as error:
                _log.warning("listening for changes failed, trying again: %s", error)
                self._stopping.wait(RECONNECT_AFTER_S)

    def _listen(self) -> None:
        connection = self._database.engine.raw_connection()
        driver = connection.driver_connection
        connection.detach()  # never back to the pool: it listens
        assert isinstance(driver, psycopg.Connection)
        with driver:
            driver.autocommit = True
            driver.execute(f"listen {CHANNEL}")
            while not self._stopping.is_set():
                for notification in driver.notifies(timeout=LISTEN_FOR_S):
                    self._wake(int(notification.payload))
                    if self._stopping.is_set():
                        return

    def _wake(self, environment_id: int) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, environment_id)

    def _set(self, environment_id: int) -> None:
        for event in self._waiting.get(environment_id, ()):
            event.set()
