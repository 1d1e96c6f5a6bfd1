"""Ends that the platform could not be told at once, because it did not answer: told again until it hears them.

Without that, the Hub would forget a server that still runs and is still paid for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

_INTERVAL_S = 5.0
_TRIES = 17_280  # a day of them

_log = logging.getLogger(__name__)

Key = tuple[str, str]  # user name, server name


class LateStops:
    """One per Hub process. A start of the same server withdraws what is still to be told of its end."""

    def __init__(self, interval_s: float = _INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def add(self, key: Key, tell: Callable[[], Awaitable[bool]]) -> None:
        """`tell` is called until it returns True."""
        self.withdraw(key)
        self._tasks[key] = asyncio.create_task(self._repeat(key, tell))

    def withdraw(self, key: Key) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def _repeat(self, key: Key, tell: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(_TRIES):
            await asyncio.sleep(self._interval_s)
            if await tell():
                break
        else:
            _log.error("The platform was never told of the end of %s of %s", key[1], key[0])
        self._tasks.pop(key, None)
