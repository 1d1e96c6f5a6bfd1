"""Windows of one container on one device, taken together: what is decided for all of them is decided once."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, lt

from api.metering.screening import Grant, Quarantine, Verdict, clean, refusal, screen
from scheduler.host_protocol import UsageWindow
from scheduler.intervals import Span

MAX_WINDOWS = 10_000
"""Of one series: a row stays small, and the view numbers its windows below 2^20."""
_MAX_STEP = 2**31 - 1
"""Numbers that are further apart are of no series: their distance might not fit its column."""

Refused = tuple[UsageWindow, Quarantine | None]  # with the reason for which it does not count, whatever it says

_IDENTITY = attrgetter("boot_id", "allocation_uid", "generation", "container_id", "device_uuid", "milli")
_SEQUENCE, _FROM, _TO = attrgetter("sequence"), attrgetter("from_ms"), attrgetter("to_ms")


@dataclass(frozen=True, slots=True)
class Series:
    """Windows of one container on one device, each of which begins where the one before ends: `cuts` are the moments
    between them, one more than there are windows. Their numbers are `step` apart.
    """

    boot_id: str
    allocation_uid: str
    generation: int
    container_id: str
    device_uuid: str
    milli: int
    sequences: range
    cuts: Sequence[int]

    def windows(self) -> list[UsageWindow]:
        return [self._window(*window) for window in zip(self.sequences, self.cuts, self.cuts[1:], strict=False)]

    def hull(self) -> UsageWindow:
        """One window over the time of all."""
        return self._window(self.sequences[-1], self.cuts[0], self.cuts[-1])

    @property
    def is_proper(self) -> bool:
        """Whether every window can be stored as it is, begins after the epoch, and ends after it begins."""
        if not all(map(lt, self.cuts, self.cuts[1:])) or self.cuts[0] < 0 or self.sequences[0] < 0:
            return False
        hull = self.hull()
        return clean(hull) == hull

    def _window(self, sequence: int, from_ms: int, to_ms: int) -> UsageWindow:
        return UsageWindow(
            boot_id=self.boot_id,
            sequence=sequence,
            allocation_uid=self.allocation_uid,
            generation=self.generation,
            container_id=self.container_id,
            device_uuid=self.device_uuid,
            milli=self.milli,
            from_ms=from_ms,
            to_ms=to_ms,
        )


@dataclass(frozen=True, slots=True)
class Screened:
    """A series whose windows share a verdict: all of its time counts, or none, or, of a single window, a part."""

    series: Series
    verdict: Verdict

    @property
    def billed(self) -> Span | None:
        """The time that counts."""
        whole = self.verdict.quarantine is None
        return Span(self.series.cuts[0], self.series.cuts[-1]) if whole else self.verdict.billed


def series_of(windows: Iterable[UsageWindow]) -> list[Series]:
    """The windows as few series, each with at most MAX_WINDOWS; in-order proof makes one per device."""
    alike: defaultdict[tuple[str, str, int, str, str, int], list[UsageWindow]] = defaultdict(list)
    for window in windows:
        alike[_IDENTITY(window)].append(window)
    return [
        Series(*identity, sequences, cuts)
        for identity, all_of_it in alike.items()
        for at in range(0, len(all_of_it), MAX_WINDOWS)
        for sequences, cuts in _stretches(all_of_it[at : at + MAX_WINDOWS])
    ]


def _stretches(windows: Sequence[UsageWindow]) -> list[tuple[range, list[int]]]:
    """Numbers and cuts of windows that follow one another."""
    sequences, starts, ends = list(map(_SEQUENCE, windows)), list(map(_FROM, windows)), list(map(_TO, windows))
    step = sequences[1] - sequences[0] if len(sequences) > 1 else 1
    if 0 < step <= _MAX_STEP and starts[1:] == ends[:-1]:
        numbers = range(sequences[0], sequences[-1] + 1, step)
        # Counted first: between two numbers that a host made up there may be more than fit in memory.
        if (sequences[-1] - sequences[0]) // step + 1 == len(sequences) and sequences == list(numbers):
            return [(numbers, [*starts, ends[-1]])]
    found: list[tuple[list[int], list[int]]] = []
    for sequence, start, end in zip(sequences, starts, ends, strict=True):
        if found and _goes_on(*found[-1], sequence, start):
            found[-1][0].append(sequence)
            found[-1][1].append(end)
        else:
            found.append(([sequence], [start, end]))
    return [(range(each[0], each[-1] + 1, each[1] - each[0] if len(each) > 1 else 1), cuts) for each, cuts in found]


def _goes_on(sequences: Sequence[int], cuts: Sequence[int], sequence: int, start: int) -> bool:
    step = sequence - sequences[-1]
    return start == cuts[-1] and 0 < step <= _MAX_STEP and (len(sequences) == 1 or step == sequences[1] - sequences[0])


def screen_series(series: Series, grant: Grant | None, *, host_id: int, received_ms: int) -> list[Screened]:
    """Decide what counts of windows that came together, as `screen` decides it of each of them."""
    if series.is_proper:
        hull = series.hull()
        if reason := refusal(hull, grant, host_id=host_id):
            return [Screened(series, Verdict(None, None, reason))]  # it goes by what they have in common
        verdict = screen(hull, grant, host_id=host_id, received_ms=received_ms)
        if verdict.quarantine is None:  # all of the time counts, so each part of it does
            return [Screened(series, verdict)]
    judged = [(window, screen(window, grant, host_id=host_id, received_ms=received_ms)) for window in series.windows()]
    return _alike(judged)


def refuse(windows: Iterable[Refused]) -> list[Screened]:
    """Windows that do not count, whatever they say."""
    return _alike([(window, Verdict(None, None, reason)) for window, reason in windows])


def _alike(judged: Iterable[tuple[UsageWindow, Verdict]]) -> list[Screened]:
    """Series of windows that follow one another with the same verdict; one of which a part counts is alone."""
    groups: list[tuple[Verdict, list[UsageWindow]]] = []
    for window, verdict in judged:
        last = groups[-1][0] if groups else None
        if last is None or last.quarantine != verdict.quarantine or _is_partial(verdict) or _is_partial(last):
            groups.append((verdict, []))
        groups[-1][1].append(window)
    return [Screened(series, verdict) for verdict, windows in groups for series in series_of(windows)]


def _is_partial(verdict: Verdict) -> bool:
    return verdict.billed is not None and verdict.quarantine is not None
