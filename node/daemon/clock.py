"""Server time on this host: durations by CLOCK_BOOTTIME, so that steps of the wall clock change nothing.

The relation of the two is learnt from heartbeat replies and kept per boot, so that a restarted daemon goes on where the
last one was. It is corrected slowly: time here never jumps and never runs backwards.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from node.daemon.store import Store

_SLEW = 0.0005  # the most that time here runs faster or slower than the hardware's, to follow the server
_TOLERANCE_MS = 100.0  # below this, network jitter and clock error can't be told apart


def read_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boot_ms() -> float:
    """Milliseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


def wall_ms() -> float:
    return time.time_ns() / 1e6


class ServerClock:
    """Safe to use from many threads."""

    def __init__(
        self,
        store: Store,
        boot_id: str,
        *,
        boot: Callable[[], float] = boot_ms,
        wall: Callable[[], float] = wall_ms,
    ) -> None:
        self._store, self.boot_id = store, boot_id
        self._boot, self._wall = boot, wall
        self._lock = threading.Lock()
        self._corrected_at = boot()
        row = store.one("select server_minus_boot from clock where boot_id = ?", boot_id)
        self.synchronised = row is not None
        # Until the first reply the wall clock serves: no lease can be newer than that reply.
        self._offset: float = row[0] if row else wall() - boot()

    def now_ms(self) -> int:
        with self._lock:
            return round(self._boot() + self._offset)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def booted_at_ms(self) -> int:
        """Server time of this boot."""
        with self._lock:
            return round(self._offset)

    def learn(self, server_ms: int, sent_boot_ms: float, received_boot_ms: float) -> None:
        """A reply said `server_ms`; it was asked for and received at these times since boot."""
        target = server_ms - (sent_boot_ms + received_boot_ms) / 2
        with self._lock:
            now = self._boot()
            if not self.synchronised:
                self._offset, self.synchronised = target, True
            elif abs(target - self._offset) > _TOLERANCE_MS:
                most = (now - self._corrected_at) * _SLEW
                self._offset += max(-most, min(most, target - self._offset))
            else:
                self._corrected_at = now
                return
            self._corrected_at = now
            offset = self._offset
        self._store.execute("insert or replace into clock values (?, ?)", self.boot_id, offset)

    def from_wall(self, wall_ms: float) -> int:
        """Server time of a moment that the wall clock, as it is set now, calls `wall_ms`."""
        return round(self.now_ms() + wall_ms - self._wall())

    def to_wall(self, server_ms: int) -> int:
        """What the wall clock, as it is set now, says at that server time."""
        return round(self._wall() + server_ms - self.now_ms())
