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

Refused = tuple[UsageWindow, Quarantine | None]  # with the reason for which it does not count, whatever it says

_IDENTITY = attrgetter("boot_id", "allocation_uid", "generation", "container_id", "device_uuid", "milli")
_SEQUENCE, _FROM, _TO = attrgetter("sequence"), attrgetter("from_ms"), attrgetter("to_ms")


@dataclass(frozen=True, slots=True)
class Series:
    """Windows that differ in their numbers and times only, in the order in which they came; at least one."""

    boot_id: str
    allocation_uid: str
    generation: int
    container_id: str
    device_uuid: str
    milli: int
    sequences: Sequence[int]
    from_ms: Sequence[int]
    to_ms: Sequence[int]

    def windows(self) -> list[UsageWindow]:
        identity = (self.allocation_uid, self.generation, self.container_id, self.device_uuid, self.milli)
        times = zip(self.sequences, self.from_ms, self.to_ms, strict=True)
        return [UsageWindow(self.boot_id, sequence, *identity, start, end) for sequence, start, end in times]

    def hull(self) -> UsageWindow:
        """One window over the time of all."""
        identity = (self.allocation_uid, self.generation, self.container_id, self.device_uuid, self.milli)
        return UsageWindow(self.boot_id, max(self.sequences), *identity, min(self.from_ms), max(self.to_ms))

    @property
    def is_proper(self) -> bool:
        """Whether every window can be stored as it is, begins after the epoch, and ends after it begins."""
        if min(self.from_ms) < 0 or not all(map(lt, self.from_ms, self.to_ms)):
            return False
        hull, first = self.hull(), min(self.sequences)
        return clean(hull) == hull and first >= 0

    def spans(self) -> list[Span]:
        """Their times; one span, where each window goes on where the one before ended."""
        if self.from_ms[1:] == self.to_ms[:-1]:
            return [Span(self.from_ms[0], self.to_ms[-1])]
        return [Span(start, end) for start, end in zip(self.from_ms, self.to_ms, strict=True)]


@dataclass(frozen=True, slots=True)
class Screened:
    """A series whose windows share a verdict. Its `billed` is the part of the one window of which a part counts; where
    there is no quarantine, all windows count, whole.
    """

    series: Series
    verdict: Verdict

    def spans(self) -> list[Span]:
        """The times that count."""
        if self.verdict.billed is None:
            return []
        return [self.verdict.billed] if self.verdict.quarantine else self.series.spans()


def series_of(windows: Iterable[UsageWindow]) -> list[Series]:
    """The windows by what they are of; each series has at most MAX_WINDOWS."""
    alike: defaultdict[tuple[str, str, int, str, str, int], list[UsageWindow]] = defaultdict(list)
    for window in windows:
        alike[_IDENTITY(window)].append(window)
    return [
        Series(*identity, list(map(_SEQUENCE, part)), list(map(_FROM, part)), list(map(_TO, part)))
        for identity, all_of_it in alike.items()
        for part in (all_of_it[at : at + MAX_WINDOWS] for at in range(0, len(all_of_it), MAX_WINDOWS))
    ]


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
