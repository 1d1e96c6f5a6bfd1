"""The world of the queue sets: users who queue work and ask for its end in time, and the clock by which work runs.

Over PostgreSQL it is a process of its own, as the platform's API and its hosts are: the loop's process only grants and
ends.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Protocol

from api.clock import utc_now
from api.db import Database
from scheduler.simulator.course import Course
from scheduler.simulator.figures import RunFigures, run_figures
from scheduler.simulator.timer_fabric import TimerFabric
from scheduler.simulator.trace import Trace
from tests.bench.queue_database import PostgresWriter, QueueWriter

_READY_S = 60.0
_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Since when a trace's time runs. The monotonic clock is the same in all processes of a machine."""

    begun: datetime = field(default_factory=utc_now)
    begun_s: float = field(default_factory=time.monotonic)

    def now_ms(self) -> int:
        return int((time.monotonic() - self.begun_s) * 1000)


class World(Protocol):
    """`fabric` runs the work of the trace."""

    @property
    def fabric(self) -> TimerFabric: ...

    def go_on(self) -> RunFigures | None:
        """Let happen what is due; the figures, once all work has ended."""

    def wait(self) -> None:
        """Until something has been written, or for a moment."""


@dataclass(slots=True)
class InProcess:
    """For what is in memory: everything is written at once."""

    writer: QueueWriter
    course: Course
    clock: Clock
    fabric: TimerFabric = field(init=False)

    def __post_init__(self) -> None:
        self.writer.begun = self.clock.begun
        self.fabric = TimerFabric(self.course, self.clock.now_ms)

    def go_on(self) -> RunFigures | None:
        _write_what_is_due(self.course, self.writer, self.clock.now_ms())
        return run_figures(self.course) if self.course.done else None

    def wait(self) -> None:
        time.sleep(_rest_s(self.course, self.clock))


_Event = tuple[str, str, int]  # "granted" or "ended", a uid, and when


@dataclass(slots=True)
class _Told:
    """What is granted and ended, to be told to the other process."""

    events: list[_Event] = field(default_factory=list)

    def granted(self, uid: str, now_ms: int) -> None:
        self.events.append(("granted", uid, now_ms))

    def ended(self, uid: str, now_ms: int) -> None:
        self.events.append(("ended", uid, now_ms))


@dataclass(slots=True)
class Beside:
    connection: Connection
    clock: Clock
    told: _Told = field(default_factory=_Told)
    fabric: TimerFabric = field(init=False)

    def __post_init__(self) -> None:
        self.connection.send(self.clock)
        self.fabric = TimerFabric(self.told, self.clock.now_ms)

    def go_on(self) -> RunFigures | None:
        """
        Raises:
            EOFError: the other process has failed.
        """
        if self.told.events:
            self.connection.send(self.told.events)
            self.told.events.clear()
        figures: RunFigures | None = None
        while figures is None and self.connection.poll():  # they are the last that it says
            figures = self.connection.recv()
        return figures

    def wait(self) -> None:
        self.connection.poll(_TICK_S)


@contextmanager
def beside(url: str, trace: Trace) -> Iterator[Callable[[], World]]:
    """A world that writes to that database; the time of the trace begins when it is called."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, url, trace), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_READY_S):
            raise TimeoutError("the users' process does not begin")
        ours.recv()
        yield lambda: Beside(ours, Clock())
    finally:
        ours.close()
        process.join(_READY_S)


def _serve(connection: Connection, url: str, trace: Trace) -> None:
    database, course = Database(url), Course(trace)
    writer = PostgresWriter(database, trace)
    connection.send(None)
    try:
        clock: Clock = connection.recv()
        writer.begun = clock.begun
        while not course.done:
            while connection.poll():
                for what, uid, now_ms in connection.recv():
                    (course.granted if what == "granted" else course.ended)(uid, now_ms)
            if _write_what_is_due(course, writer, clock.now_ms()):
                connection.send(None)
            connection.poll(_rest_s(course, clock))
        connection.send(run_figures(course))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        database.close()


def _write_what_is_due(course: Course, writer: QueueWriter, now_ms: int) -> bool:
    """What has come up meanwhile, in one transaction for what ends and one for what is queued; whether anything has."""
    queued, ended = [attempt.uid for attempt in course.attempts(now_ms)], course.ends(now_ms)
    if ended:
        writer.end(ended)
    if queued:
        writer.queue(queued)
    return bool(queued or ended)


def _rest_s(course: Course, clock: Clock) -> float:
    due = course.next_ms
    return _TICK_S if due is None else min(_TICK_S, max(0.0, (due - clock.now_ms()) / 1000))
