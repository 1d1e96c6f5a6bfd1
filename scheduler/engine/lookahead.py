"""The earliest time at which a request could start: what is held is given back in the order of its expected end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scheduler.cluster.cluster import Cluster
from scheduler.engine.expected_ends import ExpectedEnd
from scheduler.engine.kept import Asides, Key
from scheduler.views import Part, Request

_FIRST_STEP = 16
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Start:
    """`certain` if it rests on enforced limits alone; then `sooner` is when it might start by estimates."""

    at: datetime
    parts: tuple[Part, ...]
    certain: bool
    sooner: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lookahead:
    """`ends` are in order; so many of them, at `most`, are looked at. `grace_s` is what it takes to enforce a limit."""

    cluster: Cluster
    asides: Asides
    ends: Sequence[ExpectedEnd]
    most: int
    grace_s: float

    def earliest_start(self, request: Request, now: datetime) -> Start | None:
        """When and where the request fits, if nothing starts before; None if not after `most` ends.

        A place that it has for certain at a time is preferred to one that it might have earlier: it can be kept.
        """
        certain = [end for end in self.ends if end.certain]
        start = self._beside_what_is_kept(request, certain, now)
        if len(certain) == len(self.ends):
            return start
        before = self.ends if start is None else [end for end in self.ends if end.at < start.at]
        estimated = self._beside_what_is_kept(request, before, now)
        if start is None or estimated is None:
            return start or estimated
        return replace(start, sooner=estimated.at)

    def _beside_what_is_kept(self, request: Request, ends: Sequence[ExpectedEnd], now: datetime) -> Start | None:
        """What is kept for a time after its own end is not in its way: the later it starts, the less that is."""
        if request.limit_s is None:
            return self._first(request, ends, [])
        runs = timedelta(seconds=request.limit_s + self.grace_s)
        lifted = self.asides.free_for(now + runs)
        for _ in range(_ROUNDS):
            start = self._first(request, ends, lifted)
            if start is None:
                return None
            free = [key for key in lifted if self.asides.since(key) >= start.at + runs]
            if free == lifted:
                return start
            lifted = free
        return self._first(request, ends, [])

    def _first(self, request: Request, ends: Sequence[ExpectedEnd], lifted: Sequence[Key]) -> Start | None:
        """More ends never make it fit worse: they come in steps that double, and the last step is halved and halved."""
        within = min(len(ends), self.most)
        with self.cluster.trial():
            for key in lifted:
                self.cluster.clear_aside(key)
            low, step = 0, _FIRST_STEP
            parts = None
            while low < within and (parts := self._after(request, ends[low : min(low + step, within)])) is None:
                self._give_back(ends[low : min(low + step, within)])
                low, step = low + step, 2 * step
            if parts is None:
                return None
            high = min(low + step, within)
            while high - low > 1:
                middle = (low + high) // 2
                found = self._after(request, ends[low:middle])
                if found is None:
                    self._give_back(ends[low:middle])
                    low = middle
                else:
                    high, parts = middle, found
        return Start(ends[high - 1].at, parts, all(end.certain for end in ends[:high]))

    def _after(self, request: Request, ends: Sequence[ExpectedEnd]) -> tuple[Part, ...] | None:
        with self.cluster.trial():
            self._give_back(ends)
            return self.cluster.find(request.demand, request.customer_id)

    def _give_back(self, ends: Sequence[ExpectedEnd]) -> None:
        for end in ends:
            if end.allocation_id is not None:
                self.cluster.release(end.allocation_id)
            elif end.aside is not None:
                self.cluster.clear_aside(end.aside)
