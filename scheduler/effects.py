"""Which effects run now: none twice at once for an allocation's generation, and failed ones not again at once."""

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Key = tuple[int, int]  # (allocation id, generation)

FIRST_DELAY = timedelta(seconds=1)
LONGEST_DELAY = timedelta(seconds=60)


def delay_after(failures: int) -> timedelta:
    """1, 2, 4, ... seconds after the first, second, third failure, a minute at most."""
    doublings = min(max(failures - 1, 0), 10)
    return min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)


@dataclass(slots=True)
class Effects:
    """Shared by the cycle, which starts effects, and the threads they run in, which end them."""

    _running: set[Key] = field(default_factory=set)
    _failures: dict[Key, int] = field(default_factory=dict)
    _not_before: dict[Key, datetime] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, key: Key, now: datetime) -> bool:
        """Whether an effect may start; it is running from then on."""
        with self._lock:
            if key in self._running or self._not_before.get(key, now) > now:
                return False
            self._running.add(key)
            return True

    def end(self, key: Key) -> None:
        """It did what it had to, or is tried again in another way: forget it."""
        with self._lock:
            self._running.discard(key)
            self._failures.pop(key, None)
            self._not_before.pop(key, None)

    def fail(self, key: Key, now: datetime) -> None:
        """It has to be done again, after a delay that grows."""
        with self._lock:
            self._running.discard(key)
            self._failures[key] = self._failures.get(key, 0) + 1
            self._not_before[key] = now + delay_after(self._failures[key])

    def keep_only(self, wanted: set[Key]) -> None:
        """Forget the failures of what nobody wants any more, so that the memory of them is bounded."""
        with self._lock:
            for key in [key for key in self._failures if key not in wanted and key not in self._running]:
                del self._failures[key]
                del self._not_before[key]

    def running_keys(self) -> frozenset[Key]:
        with self._lock:
            return frozenset(self._running)
