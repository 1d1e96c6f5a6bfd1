"""Rate limits per address and per identity, counted in this process."""

import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from api.errors import TooManyRequests
from api.settings import Settings


class RateLimits:
    """One per application. With several replicas behind a balancer, each counts its own share."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._address = parse(settings.rate_limit_address)
        self._identity = parse(settings.rate_limit_identity)
        self._sign_in = parse(settings.rate_limit_sign_in)

    def hit_address(self, address: str) -> None:
        """Count a request of `address`.

        Raises:
            TooManyRequests: with `Retry-After`.
        """
        self._hit(self._address, "address", address)

    def hit_identity(self, identity: str) -> None:
        """Count a request of a user or key. Raises TooManyRequests."""
        self._hit(self._identity, "identity", identity)

    def hit_sign_in(self, address: str) -> None:
        """Count an attempt to prove a password or a token from `address`. Raises TooManyRequests."""
        self._hit(self._sign_in, "sign-in", address)

    def _hit(self, limit: RateLimitItem, kind: str, who: str) -> None:
        if self._limiter.hit(limit, kind, who):
            return
        reset_at = self._limiter.get_window_stats(limit, kind, who).reset_time
        wait_s = max(1, round(reset_at - time.time()))
        raise TooManyRequests(
            f"Too many requests; try again in {wait_s} s.", code="rate_limited", headers={"Retry-After": str(wait_s)}
        )
