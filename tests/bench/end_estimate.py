"""How wrong the estimate of ends is where no time limit is given: on the run times of the openb trace.

The error is the factor between the time that a task was still to run and the estimate of that, whichever is larger.
Tasks are looked at in two ways: each once, at a moment drawn evenly from its run time; and all that run at random
moments of the trace, as the scheduler sees them, where long ones count for more.
"""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta

from scheduler.engine.expected_ends import expected_end
from scheduler.simulator.openb import demand_of, read_tasks
from scheduler.simulator.trace import EPOCH
from scheduler.states import AllocationState
from scheduler.views import Held, Request
from tests.bench.figures import Figure, median
from tests.bench.traces import directory

_SEEDS = range(3)
_MOMENTS = 400
_FACTOR = 3.5  # ours: nobody has published one
Looks = list[tuple[float, float]]
"""How long each has run, and is still to run, in seconds."""


def run() -> list[Figure]:
    tasks = read_tasks(directory() / "openb_pod_list_default.csv", timed=True)
    request = Request(1, "1", 1, 1, demand_of(tasks[0]), EPOCH)
    spans = [(task.created_s or 0, task.deleted_s or 0) for task in tasks]
    spans = [(begin, end) for begin, end in spans if end > begin]
    ways: dict[str, Callable[[int], Looks]] = {
        "each task once": lambda seed: _each_once(spans, seed),
        "at random moments": lambda seed: _at_moments(spans, seed),
    }
    return [_figure(name, [look(seed) for seed in _SEEDS], request) for name, look in ways.items()]


def _figure(name: str, found: Sequence[Looks], request: Request) -> Figure:
    errors = [[(left, _estimate(ran, request)) for ran, left in looks] for looks in found]
    factors = [[max(left, said) / min(left, said) for left, said in each] for each in errors]
    medians = [median(each) for each in factors]
    details = {
        "seeds": medians,
        "median_of_estimate_over_truth": [median([said / left for left, said in each]) for each in errors],
        "percent_within_factor_2": [_percent([factor <= 2 for factor in each]) for each in factors],
        "percent_estimated_too_early": [_percent([said < left for left, said in each]) for each in errors],
    }
    return Figure(f"estimate of ends, openb, {name}, median error", median(medians), "times", _FACTOR, True, details)


def _estimate(ran_s: float, request: Request) -> float:
    now = EPOCH + timedelta(seconds=ran_s)
    held = Held(request, AllocationState.ACTIVE, 1, (), EPOCH)
    return (expected_end(held, now, promised=None).at - now).total_seconds()


def _each_once(spans: Sequence[tuple[int, int]], seed: int) -> Looks:
    draw = random.Random(seed)
    shares = [(end - begin, draw.random()) for begin, end in spans]
    return [(runtime_s * share, runtime_s * (1 - share)) for runtime_s, share in shares]


def _at_moments(spans: Sequence[tuple[int, int]], seed: int) -> Looks:
    draw = random.Random(seed)
    moments = [draw.random() * max(end for _, end in spans) for _ in range(_MOMENTS)]
    return [(at - begin, end - at) for at in moments for begin, end in spans if begin < at < end]


def _percent(answers: Sequence[bool]) -> float:
    return 100 * sum(answers) / len(answers)
