"""When what is held will be free.

An enforced time limit is a promise. Where none is given the end is estimated: what has run for so long runs as long
again (the doubling estimate: for run times whose logarithm is spread evenly, half of them end sooner). The estimate
can be wrong, and whatever rests on it says so. `docs/benchmarks.md` has its error on a public trace.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.states import AllocationState
from scheduler.views import Held

LEAST_S = 60.0


@dataclass(frozen=True, slots=True, order=True)
class ExpectedEnd:
    at: datetime
    allocation_id: int
    certain: bool


def expected_end(held: Held, now: datetime, *, grace_s: float) -> ExpectedEnd:
    """Never in the past."""
    number = held.request.allocation_id
    if held.state is AllocationState.RELEASING:
        return ExpectedEnd(now + timedelta(seconds=grace_s), number, True)
    if held.request.limit_s is not None:
        end = held.since + timedelta(seconds=held.request.limit_s + grace_s)
        return ExpectedEnd(max(end, now + timedelta(seconds=1)), number, True)
    elapsed_s = (now - held.since).total_seconds()
    return ExpectedEnd(now + timedelta(seconds=max(elapsed_s, LEAST_S)), number, False)


def in_order(held: Iterable[Held], now: datetime, *, grace_s: float) -> list[ExpectedEnd]:
    return sorted(expected_end(item, now, grace_s=grace_s) for item in held)
