"""Queue sets in real time: each piece of work comes, waits, runs by the clock and ends, all of it durably.

`python -m tests.bench.queue_sets CONFIG [--store memory]` runs one, in a process of its own, and prints JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import scheduler.simulator
from api.clock import utc_now
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.loop import Scheduler
from scheduler.ports import Store
from scheduler.simulator.course import Course
from scheduler.simulator.figures import run_figures
from scheduler.simulator.queue_sets import read_queue_sets
from scheduler.simulator.timer_fabric import TimerFabric
from scheduler.simulator.trace import Trace
from tests.bench.figures import Figure, median
from tests.bench.queue_database import InMemory, in_postgres
from tests.bench.queue_users import Inline, Users, beside

CONFIGS = Path(scheduler.simulator.__file__).parent / "configs"
_PAUSE_S = 0.005  # between cycles, as the controller's
_TICK_S = 1.0
_LIMIT_S = 900.0
_RUNS = 3
_WALL_S = {"baseline": 75.0, "large": 60.0}
# Kueue's in its baseline, as its own limits state them: seconds from creation to the last admission.
_WAITS_S = {"large": 16.5, "medium": 76.8, "small": 215.0}


@dataclass(slots=True)
class RealTime:
    """A trace in real time; `run` returns when all of it has ended and is recorded."""

    trace: Trace
    course: Course = field(init=False)
    begun_s: float = 0.0
    cycles_s: list[float] = field(default_factory=list)

    def run(self, store: Store, users: Users) -> float:
        """Seconds that it took.

        Raises:
            TimeoutError
        """
        self.course = Course(self.trace)
        self.begun_s = time.monotonic()
        users.begin(utc_now())
        fabric = TimerFabric(self.course, self._now_ms)
        loop = Scheduler(store, fabric, Engine(EngineSettings(grace_s=0)), utc_now, lambda effect: effect())
        unfinished = True
        while unfinished or not self.course.done:
            now_ms = self._now_ms()
            users.ask([attempt.uid for attempt in self.course.attempts(now_ms)], self.course.ends(now_ms))
            begun = time.monotonic()
            unfinished = loop.cycle().unfinished
            self.cycles_s.append(time.monotonic() - begun)
            time.sleep(_PAUSE_S)
            users.wait(0.0 if unfinished else self._rest_s())
            if time.monotonic() - self.begun_s > _LIMIT_S:
                raise TimeoutError(f"{self.course.finished} of {len(self.trace.work)} are finished")
        return time.monotonic() - self.begun_s

    def _rest_s(self) -> float:
        due = self.course.next_ms
        return _TICK_S if due is None else min(_TICK_S, max(0.0, (due - self._now_ms()) / 1000))

    def _now_ms(self) -> int:
        return int((time.monotonic() - self.begun_s) * 1000)


def measure(config: Path, store: str) -> dict[str, Any]:  # Any: JSON
    trace = read_queue_sets(config)
    real_time = RealTime(trace)
    if store == "memory":
        memory = InMemory(trace)
        wall_s = real_time.run(memory.store, Inline(memory))
    else:
        with in_postgres(trace) as (url, postgres), beside(url, trace) as users:
            wall_s = real_time.run(postgres, users)
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
