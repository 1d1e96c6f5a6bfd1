"""How wrong the estimate of ends is where no time limit is given: on the run times of the openb trace.

Each task is looked at once, at a moment drawn evenly from its run time. The error is the factor between the time that
it was still to run and the estimate of that, whichever is larger.
"""

import random
from datetime import timedelta

from scheduler.engine.expected_ends import expected_end
from scheduler.simulator.openb import demand_of, read_tasks
from scheduler.simulator.trace import EPOCH
from scheduler.states import AllocationState
from scheduler.views import Held, Request
from tests.bench.figures import Figure, median
from tests.bench.traces import directory

_SEEDS = range(3)
_FACTOR = 3.0  # ours: nobody has published one


def run() -> list[Figure]:
    tasks = read_tasks(directory() / "openb_pod_list_default.csv", timed=True)
    runtimes = [(task.deleted_s or 0) - (task.created_s or 0) for task in tasks]
    request = Request(1, "1", 1, 1, demand_of(tasks[0]), EPOCH)
    found = [_errors([each for each in runtimes if each > 0], request, seed) for seed in _SEEDS]
    factors = [median([max(left, said) / min(left, said) for left, said in each]) for each in found]
    sooner = [100 * sum(left < said for left, said in each) / len(each) for each in found]
    return [
        Figure(
            "estimate of ends, openb, median error",
            median(factors),
            "times",
            _FACTOR,
            True,
            {"seeds": factors, "percent_that_ended_sooner": sooner},
        )
    ]


def _errors(runtimes: list[int], request: Request, seed: int) -> list[tuple[float, float]]:
    """Of each task, the seconds that it was still to run, and those that were expected."""
    draw = random.Random(seed)
    found = []
    for runtime_s in runtimes:
        ran_s = draw.random() * runtime_s
        now = EPOCH + timedelta(seconds=ran_s)
        held = Held(request, AllocationState.ACTIVE, 1, (), EPOCH)
        said = (expected_end(held, now, promised=None).at - now).total_seconds()
        found.append((runtime_s - ran_s, said))
    return found
