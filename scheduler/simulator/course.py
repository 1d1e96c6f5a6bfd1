"""The course of a trace: what arrives and ends when, and what became of it. Time is given, virtual or real."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from scheduler.simulator.trace import Trace, Work

_MOST_ATTEMPTS = 2**32  # of a piece of work


@dataclass(frozen=True, slots=True)
class Attempt:
    """A piece of work that has to be queued: for the first time, or again after it was preempted."""

    uid: str
    work: Work


@dataclass(slots=True)
class Story:
    """What became of a piece of work, in milliseconds since the beginning. `ran_ms` counts preempted runs too."""

    work: Work
    started_ms: int | None = None  # the last time
    ended_ms: int | None = None
    first_started_ms: int | None = None
    preemptions: int = 0
    ran_ms: int = 0


@dataclass(slots=True)
class Course:
    """Where a trace stands. Attempts are told apart by uid; a gang runs when all of its hosts have been granted.

    `use` has thousandths of GPUs in use, each from a time on, in milliseconds.
    """

    trace: Trace
    stories: list[Story] = field(init=False)
    finished: int = 0
    admissions: int = 0
    waiting: int = 0
    use: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    _arrived: int = 0
    _again: list[Attempt] = field(default_factory=list)
    _granted: dict[str, int] = field(default_factory=dict)
    _ends: list[tuple[int, str]] = field(default_factory=list)  # a heap; those of preempted runs are stale
    _due: set[str] = field(default_factory=set)  # their time is over, and they have not been ended yet

    def __post_init__(self) -> None:
        self.stories = [Story(work) for work in self.trace.work]

    @property
    def done(self) -> bool:
        return self.finished == len(self.stories)

    @property
    def next_ms(self) -> int | None:
        """When the next piece of work arrives or ends."""
        times = [self.stories[self._arrived].work.arrives_ms] if self._arrived < len(self.stories) else []
        if self._ends:
            times.append(self._ends[0][0])
        return min(times, default=None)

    def attempts(self, now_ms: int) -> Sequence[Attempt]:
        """What has to be queued by now: each is returned once."""
        found, self._again = self._again, []
        while self._arrived < len(self.stories) and self.stories[self._arrived].work.arrives_ms <= now_ms:
            found.append(self._attempt(self._arrived))
            self._arrived += 1
        self.waiting += len(found)
        return found

    def ends(self, now_ms: int) -> Sequence[str]:
        """The uids of those whose time is over by now: each is returned once."""
        over = []
        while self._ends and self._ends[0][0] <= now_ms:
            _, uid = heapq.heappop(self._ends)
            if uid in self._granted:
                self._due.add(uid)
                over.append(uid)
        return over

    def granted(self, uid: str, now_ms: int) -> None:
        """One of its hosts has the lease; a repeated grant of a host must not be counted."""
        story = self.stories[number_of(uid)]
        self._granted[uid] = self._granted.get(uid, 0) + 1
        if self._granted[uid] < story.work.demand.nodes:
            return
        self.admissions += 1
        self.waiting -= 1
        self._used(now_ms, story.work.demand.gpu_milli)
        story.started_ms = now_ms
        if story.first_started_ms is None:
            story.first_started_ms = now_ms
        if story.work.runtime_ms is not None:
            heapq.heappush(self._ends, (now_ms + story.work.runtime_ms, uid))

    def ended(self, uid: str, now_ms: int) -> None:
        """All of its hosts have ended it: it is finished if its time was over, and starts again from zero if not."""
        story = self.stories[number_of(uid)]
        del self._granted[uid]
        if story.started_ms is not None:
            story.ran_ms += now_ms - story.started_ms
            self._used(now_ms, -story.work.demand.gpu_milli)
        if uid in self._due:
            self._due.discard(uid)
            story.ended_ms = now_ms
            self.finished += 1
        else:
            story.preemptions += 1
            self._again.append(self._attempt(number_of(uid)))

    def _used(self, now_ms: int, change: int) -> None:
        last_ms, used = self.use[-1]
        if last_ms == now_ms:
            self.use.pop()
        self.use.append((now_ms, used + change))

    def _attempt(self, number: int) -> Attempt:
        story = self.stories[number]
        story.started_ms = None
        return Attempt(str(UUID(int=number * _MOST_ATTEMPTS + story.preemptions)), story.work)


def number_of(uid: str) -> int:
    """The place in the trace of the work that an attempt is of."""
    return UUID(uid).int // _MOST_ATTEMPTS
