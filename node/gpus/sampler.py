"""Readings that are taken beside those who need them: NVML may not answer for minutes, or ever, once a GPU is wedged.

Heartbeats that waited for it would stop, and with them everything that runs on the other GPUs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from node.gpus.provider import Gpus
from scheduler.host_protocol import GpuReading

STALE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Sample:
    readings: tuple[GpuReading, ...]
    taken_s: float


class Sampler:
    """`sample` is called by one thread, again and again; the rest by any, and never waits."""

    def __init__(self, gpus: Gpus, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpus, self._clock = gpus, clock
        self._last = _Sample((), clock())

    def sample(self) -> None:
        readings = self._gpus.readings()
        self._last = _Sample(readings, self._clock())

    def readings(self) -> tuple[GpuReading, ...]:
        """The last ones, empty once they are older than STALE_S: what can't be read is absent."""
        last = self._last
        return last.readings if self._clock() - last.taken_s <= STALE_S else ()

    @property
    def problem(self) -> str | None:
        """What keeps new work from this host until its GPUs answer again."""
        return "the GPUs do not answer" if self._clock() - self._last.taken_s > STALE_S else None
