"""What everybody who waits is told: why, how many are ahead, and when it may start; and who has to be told anew.

In a long queue every start moves everybody's place. The first of each line are told at once, and so is everybody whose
reason is another one; places and figures of the rest are told anew every few seconds only.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scheduler.engine.backlog import Line
from scheduler.engine.blocked import Blocked, Code
from scheduler.engine.order import Order
from scheduler.engine.state import State
from scheduler.ports import WaitReason
from scheduler.views import Request

_SHORT = 200  # up to so many that wait, all of them are told at once
_FIRST = 50  # of a longer queue


@dataclass(slots=True)
class Explanation:
    state: State
    now: datetime
    order: Order
    _lines: list[tuple[Line, Blocked]] = field(default_factory=list)

    def line_waits(self, line: Line, verdict: Blocked) -> None:
        """Lines are given in the order in which they were considered."""
        self._lines.append((line, verdict))

    def waits(self) -> dict[int, WaitReason]:
        """The reasons that are new."""
        news = dict(self._back_off())
        state = self.state
        due = state.said_at is None or self.now >= state.said_at + timedelta(seconds=state.settings.refresh_s)
        if due or len(state.backlog) <= _SHORT:
            state.said_at = self.now
            news.update(self._everybody())
        else:
            news.update(self._first_and_new())
        state.said.update(news)
        return news

    def _everybody(self) -> Iterator[tuple[int, WaitReason]]:
        lines = {number: pair for pair in self._lines for number in pair[0].requests}
        ahead = Ahead()
        for request in self.order.sorted(request for line, _ in self._lines for request in line.requests.values()):
            line, verdict = lines[request.allocation_id]
            models = self.state.models_of_line(line)
            position = ahead.of(models) + 1
            ahead.add(models)
            yield from self._new(request, line, verdict, position)
        for line, verdict in self._lines:
            line.told, line.untold = verdict, []

    def _first_and_new(self) -> Iterator[tuple[int, WaitReason]]:
        ahead = Ahead()
        for line, verdict in self._lines:
            models = self.state.models_of_line(line)
            before = ahead.of(models)
            ahead.add(models, len(line.requests))
            if line.told is not verdict or line.untold:
                for index, request in self._concerned(line, verdict, before):
                    yield from self._new(request, line, verdict, before + index + 1)

    def _concerned(self, line: Line, verdict: Blocked, before: int) -> Iterator[tuple[int, Request]]:
        """Who is told now, with the place in the line."""
        told, line.told = line.told, verdict
        untold, line.untold = line.untold, []
        if told is None or told.code is not verdict.code:
            yield from enumerate(line.in_order())
            return
        if told is not verdict and before < _FIRST:
            yield from enumerate(line.first(_FIRST - before))
        for request in untold:
            if request.allocation_id in line.requests:
                yield len(line.requests) - 1, request

    def _new(self, request: Request, line: Line, verdict: Blocked, position: int) -> Iterator[tuple[int, WaitReason]]:
        pace_s = self.state.pace.of(request.demand.models)
        reason = verdict.reason(position, first=request is line.head(), pace_s=pace_s, now=self.now)
        if self.state.said.get(request.allocation_id) != reason:
            yield request.allocation_id, reason

    def _back_off(self) -> Iterator[tuple[int, WaitReason]]:
        for position, request in enumerate(self.state.backlog.asleep(), 1):
            assert request.not_before is not None
            detail = f"Its host failed to take it; it is tried again at {request.not_before:%H:%M:%S} UTC."
            reason = WaitReason(Code.HOST_NOT_AVAILABLE, detail, position)
            if self.state.said.get(request.allocation_id) != reason:
                yield request.allocation_id, reason


@dataclass(slots=True)
class Ahead:
    """How many, of those seen so far, compete for the same devices; by the exact models that each could have."""

    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def of(self, models: tuple[str, ...]) -> int:
        wanted = frozenset(models)
        return sum(count for other, count in self.counts.items() if other == models or not wanted.isdisjoint(other))

    def add(self, models: tuple[str, ...], count: int = 1) -> None:
        self.counts[models] += count
