"""Rate limits per address and per identity, counted in this process."""

import threading
import time
from math import ceil

from limits import parse

from api.errors import TooManyRequests
from api.settings import Settings


class SlidingWindow:
    """At most `amount` hits in any `window_s`, of each one who is counted.

    Two counters stand for all times of hits: those of the window before count by the part of it that still reaches
    into the last `window_s`. The library's own strategy is the same, but starts a thread whenever it finds none at
    work that forgets old counts, which is at every other request, and which the event loop waits for. Here all counts
    of a window are forgotten at once.
    """

    def __init__(self, amount: int, window_s: float) -> None:
        self._amount = amount
        self._window_s = window_s
        self._lock = threading.Lock()
        self._number = 0
        self._current: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def hit(self, who: str, now: float) -> float:
        """Count a hit: 0, or for how many seconds none is allowed, and then it is not counted."""
        with self._lock:
            return self._hit(who, now)

    def _hit(self, who: str, now: float) -> float:
        number, since_s = divmod(now, self._window_s)
        if number != self._number:
            self._before = self._current if number == self._number + 1 else {}
            self._current = {}
            self._number = int(number)
        used, before = self._current.get(who, 0), self._before.get(who, 0)
        left_s = self._window_s - since_s
        if used >= self._amount:
            return left_s
        # It fits when `before * left_s / window_s < amount - used`.
        wait_s = left_s - (self._amount - used) * self._window_s / before if before else -1.0
        if wait_s >= 0:
            return max(wait_s, 0.001)
        self._current[who] = used + 1
        return 0


class RateLimits:
    """One per application. With several replicas behind a balancer, each counts its own share."""

    def __init__(self, settings: Settings) -> None:
        self._address = _window(settings.rate_limit_address)
        self._identity = _window(settings.rate_limit_identity)
        self._sign_in = _window(settings.rate_limit_sign_in)

    def hit_address(self, address: str) -> None:
        """Count a request of `address`.

        Raises:
            TooManyRequests: with `Retry-After`.
        """
        _hit(self._address, address)

    def hit_identity(self, identity: str) -> None:
        """Count a request of a user or key. Raises TooManyRequests."""
        _hit(self._identity, identity)

    def hit_sign_in(self, address: str) -> None:
        """Count an attempt to prove a password or a token from `address`. Raises TooManyRequests."""
        _hit(self._sign_in, address)


def _window(limit: str) -> SlidingWindow:
    """Of a limit such as `600/minute`."""
    item = parse(limit)
    return SlidingWindow(item.amount, item.get_expiry())


def _hit(window: SlidingWindow, who: str) -> None:
    wait_s = ceil(window.hit(who, time.monotonic()))
    if wait_s:
        raise TooManyRequests(
            f"Too many requests; try again in {wait_s} s.", code="rate_limited", headers={"Retry-After": str(wait_s)}
        )
