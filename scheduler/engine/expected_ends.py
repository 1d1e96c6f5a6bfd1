"""When what is held will be free.

An enforced time limit is a promise, and so are the grace of what has been told to end and the end of a reservation.
Without one the end is estimated: what has run for so long runs as long again (the doubling estimate: for run times
whose logarithm is spread evenly, half of them end sooner). The same goes for a promise that was not kept: what is late
by so long is late as long again. An estimate can be wrong, and whatever rests on it says so. `docs/benchmarks.md` has
its error on a public trace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.engine.holdings import Holdings
from scheduler.engine.kept import Key
from scheduler.states import AllocationState
from scheduler.views import Held, Reservation

LEAST_S = 60.0
_LEAST_LATE_S = 1.0


@dataclass(frozen=True, slots=True, order=True)
class ExpectedEnd:
    """Of an allocation; or of an advance reservation, where it is None: then `aside` is what was kept for it."""

    at: datetime
    allocation_id: int | None
    certain: bool
    aside: Key | None = None


def expected_end(held: Held, now: datetime, *, promised: datetime | None) -> ExpectedEnd:
    """Always in the future."""
    number = held.request.allocation_id
    if promised is not None and promised > now:
        return ExpectedEnd(promised, number, True)
    since, least_s = (held.since, LEAST_S) if promised is None else (promised, _LEAST_LATE_S)
    return ExpectedEnd(now + timedelta(seconds=max((now - since).total_seconds(), least_s)), number, False)


def promised_end(
    held: Held, *, grace_s: float, leaving_since: datetime | None, reservation: Reservation | None
) -> datetime | None:
    """The end that somebody enforces, with the grace that it takes."""
    begins = [] if leaving_since is None or held.state is not AllocationState.RELEASING else [leaving_since]
    if held.request.limit_s is not None:
        begins.append(held.since + timedelta(seconds=held.request.limit_s))
    if reservation is not None:
        begins.append(reservation.ends_at)
    return min(begins) + timedelta(seconds=grace_s) if begins else None


def in_order(
    holdings: Holdings, reservations: Mapping[int, Reservation], now: datetime, *, grace_s: float
) -> list[ExpectedEnd]:
    """Of all that is held, and of all reservations."""
    ends = [
        ExpectedEnd(reservation.ends_at, None, True, ("reservation", number, part.host_id))
        for number, reservation in reservations.items()
        if reservation.ends_at > now
        for part in reservation.parts
    ]
    for held in holdings.all():
        request = held.request
        promised = promised_end(
            held,
            grace_s=grace_s,
            leaving_since=holdings.leaving_since(request.allocation_id),
            reservation=None if request.reservation_id is None else reservations.get(request.reservation_id),
        )
        ends.append(expected_end(held, now, promised=promised))
    return sorted(ends, key=_by_time)


def _by_time(end: ExpectedEnd) -> tuple[datetime, int, Key]:
    return end.at, end.allocation_id or 0, end.aside or ("", 0, 0)
