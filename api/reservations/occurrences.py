"""The times of a reservation that is asked for, once or again and again."""

from datetime import datetime, timedelta

from api.errors import Unprocessable
from api.reservations.calendar import Span
from api.reservations.schemas import MAX_OCCURRENCES, MAX_S, MIN_S, ReservationCreate

HORIZON = timedelta(days=366)


def occurrences(wanted: ReservationCreate, *, now: datetime) -> list[Span]:
    """In the order of time; one that has begun counts from now.

    Raises:
        Unprocessable: `bad_period`: over, too short, too long, too far ahead, or overlapping itself.
    """
    start = wanted.starts_at
    if abs(start - now) > HORIZON:
        raise _refused("It must start within a year.")
    length = timedelta(seconds=wanted.duration_s) if wanted.duration_s is not None else wanted.ends_at - start  # type: ignore[operator] # the schema wants one of both
    if not MIN_S <= length.total_seconds() <= MAX_S:
        raise _refused(f"A reservation lasts {MIN_S} seconds at least and {MAX_S // 86_400} days at most.")
    if wanted.every is not None and length > wanted.every.step:
        raise _refused(f"Every {wanted.every} it would still last when the next one starts.")
    spans = [Span(begin, begin + length) for begin in _starts(wanted)]
    if not spans:
        raise _refused("`until` lies before the first start.")
    if spans[0].end < now + timedelta(seconds=MIN_S):
        raise _refused("It would be over already.")
    if spans[-1].start > now + HORIZON:
        raise _refused("The last one must start within a year.")
    return [Span(max(spans[0].start, now), spans[0].end), *spans[1:]]


def _starts(wanted: ReservationCreate) -> list[datetime]:
    if wanted.every is None:
        return [wanted.starts_at]
    step = wanted.every.step
    starts = [wanted.starts_at + n * step for n in range(wanted.count or MAX_OCCURRENCES + 1)]
    if wanted.until is not None:
        starts = [start for start in starts if start < wanted.until]
    if len(starts) > MAX_OCCURRENCES:
        raise _refused(f"That is more than {MAX_OCCURRENCES} times.")
    return starts


def _refused(sentence: str) -> Unprocessable:
    return Unprocessable(sentence, code="bad_period")
