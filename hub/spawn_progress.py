"""The steps of one start, for any number of waiting pages."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

_LIMIT = 200  # steps kept; a start waits for a bounded time, so this is far away


class SpawnProgress:
    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self._added = asyncio.Event()

    def add(self, percent: int, message: str) -> None:
        """Record a step, unless it says what the last one said."""
        step = {"progress": percent, "message": message}
        if len(self._steps) < _LIMIT and (not self._steps or self._steps[-1] != step):
            self._steps.append(step)
            self._added.set()
            self._added = asyncio.Event()

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Every step from the first on; never ends by itself: the Hub stops reading when the start is over."""
        shown = 0
        while True:
            added = self._added
            for step in self._steps[shown:]:
                yield dict(step)
                shown += 1
            if shown == len(self._steps):
                await added.wait()
