"""Asking again while a container's host, or the platform, does not answer: they are killed, and come back.

Bounded for a whole start, not for each of its steps.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hub.docker_calls import HostUnreachable
from hub.platform_client import PlatformUnreachable

_PAUSE_S = 0.5

T = TypeVar("T")


class Patience:
    """Begins with its construction, inside a running loop."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question that may be repeated.

        Raises:
            HostUnreachable, PlatformUnreachable: the time is over.
        """
        while True:
            try:
                return await question()
            except (HostUnreachable, PlatformUnreachable):
                if asyncio.get_running_loop().time() + _PAUSE_S > self._deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)
