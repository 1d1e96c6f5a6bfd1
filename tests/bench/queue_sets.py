"""Queue sets in real time: each piece of work comes, waits, runs by the clock and ends, all of it durably.

`python -m tests.bench.queue_sets CONFIG [--store memory]` runs one, in a process of its own, and prints JSON.
"""

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import scheduler.simulator
from api.clock import utc_now
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.loop import Scheduler
from scheduler.simulator.course import Attempt, Course
from scheduler.simulator.figures import run_figures
from scheduler.simulator.queue_sets import read_queue_sets
from scheduler.simulator.timer_fabric import TimerFabric
from scheduler.simulator.trace import Trace
from tests.bench.figures import Figure, median
from tests.bench.queue_database import InMemory, QueueDatabase, in_postgres

CONFIGS = Path(scheduler.simulator.__file__).parent / "configs"
_PAUSE_S = 0.005  # between cycles, as the controller's
_TICK_S = 1.0
_LIMIT_S = 900.0
_RUNS = 3
_WALL_S = {"baseline": 75.0, "large": 60.0}
# Kueue's in its baseline, as its own limits state them: seconds from creation to the last admission.
_WAITS_S = {"large": 16.5, "medium": 76.8, "small": 215.0}


@dataclass(slots=True)
class Users:
    """Queue work and ask for ends, beside the loop: all that has come up meanwhile in one transaction each."""

    database: QueueDatabase
    begun: datetime
    wake: threading.Event
    _asked: "queue.SimpleQueue[tuple[Sequence[Attempt], Sequence[str]]]" = field(default_factory=queue.SimpleQueue)
    _failed: list[BaseException] = field(default_factory=list)

    def ask(self, attempts: Sequence[Attempt], ends: Sequence[str]) -> None:
        """
        Raises:
            RuntimeError: something that was asked before has failed.
        """
        if self._failed:
            raise RuntimeError("the users' thread has failed") from self._failed[0]
        if attempts or ends:
            self._asked.put((attempts, ends))

    def run(self) -> None:
        try:
            while True:
                attempts, ends = self._next()
                if not attempts and not ends:
                    return
                self.do(attempts, ends)
        except BaseException as error:  # told to the thread that asks
            self._failed.append(error)
            self.wake.set()

    def do(self, attempts: Sequence[Attempt], ends: Sequence[str]) -> None:
        if attempts:
            self.database.queue(attempts, self.begun)
        if ends:
            self.database.end(ends)
        self.wake.set()

    def close(self) -> None:
        self._asked.put(((), ()))

    def _next(self) -> tuple[Sequence[Attempt], Sequence[str]]:
        attempts, ends = map(list, self._asked.get())
        while not self._asked.empty():
            more_attempts, more_ends = self._asked.get()
            attempts += more_attempts
            ends += more_ends
        return attempts, ends


@contextmanager
def _beside(users: Users) -> Iterator[Users]:
    thread = threading.Thread(target=users.run, name="users")
    thread.start()
    try:
        yield users
    finally:
        users.close()
        thread.join()


@dataclass(slots=True)
class RealTime:
    """A trace in real time, over a database; `run` returns when all of it has ended and is recorded."""

    trace: Trace
    database: QueueDatabase
    course: Course = field(init=False)
    wake: threading.Event = field(default_factory=threading.Event)
    begun_s: float = 0.0
    cycles_s: list[float] = field(default_factory=list)

    def run(self, *, beside: bool) -> float:
        """Seconds that it took. `beside`: users have a thread of their own.

        Raises:
            TimeoutError
        """
        self.course = Course(self.trace)
        engine = Engine(EngineSettings(grace_s=0))
        fabric = TimerFabric(self.course, self._now_ms)
        loop = Scheduler(self.database.store, fabric, engine, utc_now, lambda effect: effect())
        users = Users(self.database, utc_now(), self.wake)
        self.begun_s = time.monotonic()
        if beside:
            with _beside(users):
                self._until_done(loop, users.ask)
        else:
            self._until_done(loop, users.do)
        return time.monotonic() - self.begun_s

    def _until_done(self, loop: Scheduler, ask: Callable[[Sequence[Attempt], Sequence[str]], None]) -> None:
        unfinished = True
        while unfinished or not self.course.done:
            self.wake.clear()
            now_ms = self._now_ms()
            ask(self.course.attempts(now_ms), self.course.ends(now_ms))
            begun = time.monotonic()
            unfinished = loop.cycle().unfinished
            self.cycles_s.append(time.monotonic() - begun)
            time.sleep(_PAUSE_S)
            if not unfinished:
                self.wake.wait(self._rest_s())
            if time.monotonic() - self.begun_s > _LIMIT_S:
                raise TimeoutError(f"{self.course.finished} of {len(self.trace.work)} are finished")

    def _rest_s(self) -> float:
        due = self.course.next_ms
        return _TICK_S if due is None else min(_TICK_S, max(0.0, (due - self._now_ms()) / 1000))

    def _now_ms(self) -> int:
        return int((time.monotonic() - self.begun_s) * 1000)


def measure(config: Path, store: str) -> dict[str, Any]:  # Any: JSON
    trace = read_queue_sets(config)
    if store == "memory":
        real_time = RealTime(trace, InMemory(trace))
        wall_s = real_time.run(beside=False)
    else:
        with in_postgres(trace) as database:
            real_time = RealTime(trace, database)
            wall_s = real_time.run(beside=True)
    return {
        "wall_s": wall_s,
        "cycles": len(real_time.cycles_s),
        "in_cycles_s": sum(real_time.cycles_s),
        "longest_cycle_s": max(real_time.cycles_s),
        **asdict(run_figures(real_time.course)),
    }


def run() -> list[Figure]:
    figures = []
    for name, bound in _WALL_S.items():
        found = [_in_a_process(CONFIGS / f"{name}.yaml") for _ in range(_RUNS)]
        walls = [each["wall_s"] for each in found]
        figures.append(Figure(f"queue sets, {name}", median(walls), "s", bound, True, {"runs": walls}))
        if name == "baseline":
            figures += [_wait(kind, bound_s, found) for kind, bound_s in _WAITS_S.items()]
    return figures


def _wait(kind: str, bound_s: float, found: Sequence[dict[str, Any]]) -> Figure:  # Any: JSON
    waits = [each["mean_wait_s"] for one in found for each in one["kinds"] if each["kind"] == kind]
    return Figure(f"queue sets, baseline, mean wait of {kind}", median(waits), "s", bound_s, True, {"runs": waits})


def _in_a_process(config: Path) -> dict[str, Any]:  # Any: JSON
    command = [sys.executable, "-m", "tests.bench.queue_sets", str(config)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--store", choices=("postgres", "memory"), default="postgres")
    options = parser.parse_args()
    sys.stdout.write(json.dumps(measure(options.config, options.store), indent=2) + "\n")
