"""The earliest time at which a request could start: what is held is given back in the order of its expected end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from scheduler.cluster.cluster import Cluster
from scheduler.engine.expected_ends import ExpectedEnd
from scheduler.views import Part, Request

_FIRST_STEP = 16


@dataclass(frozen=True, slots=True)
class Start:
    """`certain` if it rests on enforced limits alone."""

    at: datetime
    parts: tuple[Part, ...]
    certain: bool


def earliest_start(cluster: Cluster, request: Request, ends: Sequence[ExpectedEnd], *, most: int) -> Start | None:
    """When and where the request fits, if nothing else starts before; None if not after `most` ends.

    More ends never make it fit worse, so the number of them is found by doubling and halving.
    """
    within = min(len(ends), most)
    low, high = 0, min(_FIRST_STEP, within)
    parts = _after(cluster, request, ends[:high])
    while parts is None and high < within:
        low, high = high, min(high * 2, within)
        parts = _after(cluster, request, ends[:high])
    if parts is None or high == 0:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        found = _after(cluster, request, ends[:middle])
        if found is None:
            low = middle
        else:
            high, parts = middle, found
    return Start(ends[high - 1].at, parts, all(end.certain for end in ends[:high]))


def _after(cluster: Cluster, request: Request, ends: Sequence[ExpectedEnd]) -> tuple[Part, ...] | None:
    with cluster.trial():
        for end in ends:
            cluster.release(end.allocation_id)
        return cluster.find(request.demand, request.customer_id)
