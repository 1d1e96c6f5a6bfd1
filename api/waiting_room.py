"""Work that takes long and that anybody may ask for: some of it at once, some waits, and the rest is refused.

Who waits keeps a thread of all requests, so that a flood would keep everybody waiting.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import TooManyRequests


class WaitingRoom:
    """`at_once` are let through, as many as `waiting` wait for their turn. `refusal` is what the others are told."""

    def __init__(self, *, at_once: int, waiting: int, refusal: str) -> None:
        self._refusal = refusal
        self._inside = threading.BoundedSemaphore(at_once)
        self._all = threading.BoundedSemaphore(at_once + waiting)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """
        Raises:
            TooManyRequests: all places to wait are taken.
        """
        if not self._all.acquire(blocking=False):
            raise TooManyRequests(self._refusal, code="rate_limited", headers={"Retry-After": "1"})
        try:
            with self._inside:
                yield
        finally:
            self._all.release()
