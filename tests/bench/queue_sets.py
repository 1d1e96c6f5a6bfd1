"""Queue sets in real time: each piece of work comes, waits, runs by the clock and ends, all of it durably.

`python -m tests.bench.queue_sets CONFIG [--store memory] [--price MICRO]` runs one, in a process of its own, and prints
JSON. Without a price nothing is billed, as nothing is by the peer whose configurations these are.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import scheduler.simulator
from api.clock import utc_now
from cluster.collection import collect_rarely
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.loop import Scheduler
from scheduler.ports import Store
from scheduler.simulator.course import Course
from scheduler.simulator.figures import RunFigures
from scheduler.simulator.queue_sets import read_queue_sets
from tests.bench.figures import Figure, median
from tests.bench.queue_database import InMemory, in_postgres
from tests.bench.queue_users import Clock, InProcess, World, beside

CONFIGS = Path(scheduler.simulator.__file__).parent / "configs"
_PAUSE_S = 0.002  # between cycles, as the controller's
_LIMIT_S = 900.0
_RUNS = 3
_WALL_S = {"baseline": 75.0, "large": 60.0}
# Kueue's in its baseline, as its own limits state them: seconds from creation to the last admission.
_WAITS_S = {"large": 16.5, "medium": 76.8, "small": 215.0}


def play(store: Store, begin: Callable[[], World]) -> tuple[RunFigures, float, list[float]]:
    """What became of a trace that is played in real time, once all of it has ended and is recorded; how many seconds
    that took, and every cycle.

    Raises:
        TimeoutError
    """
    collect_rarely()
    begun_s = time.monotonic()
    world = begin()
    loop = Scheduler(store, world.fabric, Engine(EngineSettings(grace_s=0)), utc_now, lambda effect: effect())
    cycles_s: list[float] = []
    figures, unfinished = world.go_on(), False
    while figures is None or unfinished:
        begun = time.monotonic()
        unfinished = loop.cycle().unfinished
        cycles_s.append(time.monotonic() - begun)
        time.sleep(_PAUSE_S)
        if not unfinished and figures is None:
            world.wait()
        if figures is None:
            figures = world.go_on()
        if time.monotonic() > begun_s + _LIMIT_S:
            raise TimeoutError(f"the trace is not over after {_LIMIT_S:.0f} s")
    return figures, time.monotonic() - begun_s, cycles_s


def measure(config: Path, store: str, *, price_micro: int = 0) -> dict[str, Any]:  # Any: JSON
    trace = read_queue_sets(config)
    if store == "memory":
        memory = InMemory(trace)
        figures, wall_s, cycles_s = play(memory.store, lambda: InProcess(memory, Course(trace), Clock()))
    else:
        with in_postgres(trace, price_micro=price_micro) as (url, postgres), beside(url, trace) as begin:
            figures, wall_s, cycles_s = play(postgres, begin)
    return {
        "wall_s": wall_s,
        "cycles": len(cycles_s),
        "in_cycles_s": sum(cycles_s),
        "longest_cycle_s": max(cycles_s),
        **asdict(figures),
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
    parser.add_argument("--price", type=int, default=0, help="of a GPU hour, in micro-units")
    options = parser.parse_args()
    sys.stdout.write(json.dumps(measure(options.config, options.store, price_micro=options.price), indent=2) + "\n")
