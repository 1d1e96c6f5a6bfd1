"""How often requests for the same GPUs have started lately: what a guess at a waiting time rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

_NEWEST = 0.2  # its weight in the running mean


@dataclass(slots=True)
class _Starts:
    last: datetime
    mean_s: float | None = None


@dataclass(slots=True)
class Pace:
    """The running mean of the time between two starts, by `Demand.rivals`."""

    _starts: dict[tuple[str, ...], _Starts] = field(default_factory=dict)

    def started(self, rivals: Sequence[str], now: datetime) -> None:
        key = tuple(rivals)
        starts = self._starts.get(key)
        if starts is None:
            self._starts[key] = _Starts(now)
            return
        gap_s = max(0.0, (now - starts.last).total_seconds())
        starts.mean_s = gap_s if starts.mean_s is None else starts.mean_s + _NEWEST * (gap_s - starts.mean_s)
        starts.last = now

    def of(self, rivals: Sequence[str]) -> float | None:
        """Seconds from one start to the next; None if there were not two yet."""
        starts = self._starts.get(tuple(rivals))
        return starts.mean_s if starts is not None else None
