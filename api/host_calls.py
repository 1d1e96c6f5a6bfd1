"""Threads for calls that wait for hosts: not those of all other requests, and no more than a share for each host.

A host that hangs keeps a call for most of a minute. In the common pool, a few dozen of them would keep every request of
this process waiting, heartbeats of the other hosts among them.
"""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

AT_ONCE = 16  # of one host; more wait without a thread

Result = TypeVar("Result")


class HostCalls:
    """One per application, for its event loop."""

    def __init__(self) -> None:
        self._limiters: dict[str, CapacityLimiter] = {}

    async def run(self, host_uid: str, call: Callable[[], Result]) -> Result:
        limiter = self._limiters.get(host_uid)
        if limiter is None:
            limiter = self._limiters[host_uid] = CapacityLimiter(AT_ONCE)
        return await to_thread.run_sync(call, limiter=limiter)
