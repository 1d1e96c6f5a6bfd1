"""A trace in virtual time, through the same loop as in production: time passes only from one event to the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scheduler.loop import Scheduler
from scheduler.plan import Decider
from scheduler.simulated_database import SimulatedDatabase
from scheduler.simulated_store import MemoryStore
from scheduler.simulator.course import Course
from scheduler.simulator.timer_fabric import TimerFabric
from scheduler.simulator.trace import EPOCH, Trace, as_request, moment
from scheduler.states import EndReason

PAUSE_MS = 5
"""Between two cycles, as the controller's."""
FIRST_TICK_MS = 1_000
LONGEST_TICK_MS = 3_600_000
"""While something waits and nothing happens, cycles come by themselves, ever more seldom."""
MAX_IDLE_TICKS = 100
"""After so many of them with nothing to come any more, what waits will wait for ever."""


def at_once(effect: Callable[[], None]) -> None:
    effect()


@dataclass(slots=True)
class Simulation:
    """Call `run` once; `course` then has what became of everything."""

    trace: Trace
    decider: Decider
    pause_ms: int = PAUSE_MS
    now_ms: int = 0
    course: Course = field(init=False)
    cycles: int = 0
    _database: SimulatedDatabase = field(default_factory=SimulatedDatabase)
    _ids: dict[str, int] = field(default_factory=dict)
    _cycle_ms: int | None = None  # when the next one is due
    _last_cycle_ms: int | None = None
    _idle_ticks: int = 0

    def __post_init__(self) -> None:
        self.course = Course(self.trace)
        for host in self.trace.hosts:
            self._database.add_host(host)
        self._database.set_groups(self.trace.groups)

    def run(self) -> Course:
        # Handing on groups spares Ray time; here it would cost time.
        store = MemoryStore(self._database, self._now, idle_life=timedelta(0))
        fabric = TimerFabric(self.course, lambda: self.now_ms)
        scheduler = Scheduler(store, fabric, self.decider, self._now, at_once)
        while (upcoming := self._upcoming()) is not None and not self._over:
            self.now_ms = upcoming
            if self._happens():
                self._due(self.now_ms)
            if self._cycle_ms is not None and self._cycle_ms <= self.now_ms:
                self._cycle(scheduler)
        return self.course

    @property
    def _over(self) -> bool:
        return self.course.done or (self.course.next_ms is None and self._idle_ticks >= MAX_IDLE_TICKS)

    def _now(self) -> datetime:
        return moment(self.now_ms)

    def _upcoming(self) -> int | None:
        times = [time for time in (self.course.next_ms, self._cycle_ms) if time is not None]
        return max(self.now_ms, min(times)) if times else None

    def _happens(self) -> bool:
        """Let arrive and end what does so now."""
        attempts, ends = self.course.attempts(self.now_ms), self.course.ends(self.now_ms)
        for attempt in attempts:
            self._ids[attempt.uid] = len(self._ids) + 1
            self._database.submit(as_request(attempt.work, self._ids[attempt.uid], attempt.uid))
        for uid in ends:
            self._database.request_end(self._ids[uid], EndReason.COMPLETED)
        return bool(attempts or ends)

    def _due(self, at_ms: int) -> None:
        """A cycle has to come at that time, or as soon after it as the pause lets."""
        if self._last_cycle_ms is not None:
            at_ms = max(at_ms, self._last_cycle_ms + self.pause_ms)
        self._cycle_ms = at_ms if self._cycle_ms is None else min(self._cycle_ms, at_ms)

    def _cycle(self, scheduler: Scheduler) -> None:
        finished = self.course.finished
        self._cycle_ms = None
        cycle = scheduler.cycle()
        self.cycles += 1
        self._last_cycle_ms = self.now_ms
        busy = cycle.unfinished or cycle.admitted or self.course.finished > finished or self._happens()
        if busy:
            self._idle_ticks = 0
            self._due(self.now_ms)
            return
        if self.course.waiting:
            self._idle_ticks += 1
            self._due(self.now_ms + min(FIRST_TICK_MS << min(self._idle_ticks, 12), LONGEST_TICK_MS))
        if cycle.next_at is not None:
            self._due((cycle.next_at - EPOCH) // timedelta(milliseconds=1))
