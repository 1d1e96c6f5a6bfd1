"""Waiting for rows to change: one listening connection for each channel and application wakes all who wait.

NOTIFY is a hint; each waiter also looks again by itself.
"""

import asyncio
import logging
import threading
from collections import defaultdict

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from api.db import Database

LISTEN_FOR_S = 0.5
RECONNECT_AFTER_S = 1.0

_log = logging.getLogger(__name__)


class ChangeFeed:
    """`channel` is told the ids of rows. Started on the application's event loop and stopped with it."""

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._stopping = threading.Event()
        self._waiting: dict[int, set[asyncio.Event]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen; called on the event loop that will wait."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"changes-{self._channel}", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def watch(self, row_id: int) -> asyncio.Event:
        """An event that is set at the row's next change. Give it back with `unwatch`."""
        event = asyncio.Event()
        self._waiting[row_id].add(event)
        return event

    def unwatch(self, row_id: int, event: asyncio.Event) -> None:
        self._waiting[row_id].discard(event)
        if not self._waiting[row_id]:
            del self._waiting[row_id]

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
            driver.execute(f"listen {self._channel}")
            while not self._stopping.is_set():
                for notification in driver.notifies(timeout=LISTEN_FOR_S):
                    self._wake(int(notification.payload))
                    if self._stopping.is_set():
                        return

    def _wake(self, row_id: int) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, row_id)

    def _set(self, row_id: int) -> None:
        for event in self._waiting.get(row_id, ()):
            event.set()
