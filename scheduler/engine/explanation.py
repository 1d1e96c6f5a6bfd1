"""What everybody who waits is told: why, how many are ahead, and when it may start; and who has to be told anew.

In a long queue every start moves everybody's place. The first of each line are told at once, and so is everybody whose
reason is another one; places and figures of the rest are told anew every few seconds only.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scheduler.engine.backlog import Line
from scheduler.engine.blocked import Code
from scheduler.engine.order import Order
from scheduler.engine.state import State
from scheduler.engine.turns import in_turn
from scheduler.ports import WaitReason
from scheduler.views import Request

_SHORT = 200  # up to so many that wait, all of them are told at once
_FIRST = 50  # of a longer queue
_LONG = 10_000


@dataclass(slots=True)
class Explanation:
    """`lines` are those that wait, each with its verdict, in the order in which they were considered."""

    state: State
    now: datetime
    order: Order
    lines: Sequence[Line]

    def waits(self) -> dict[int, WaitReason]:
        """The reasons that are new."""
        state = self.state
        # In a very long queue less often, so that this takes no larger part of the time there.
        every_s = state.settings.refresh_s * max(1.0, len(state.backlog) / _LONG)
        due = state.said_at is None or self.now >= state.said_at + timedelta(seconds=every_s)
        if due or len(state.backlog) <= _SHORT:
            state.said_at = self.now
            news = dict(self._everybody())
        else:
            news = dict(self._first_and_new())
        state.said.update(news)
        return news

    def _everybody(self) -> Iterator[tuple[int, WaitReason]]:
        lines = {number: line for line in self.lines for number in line.requests}
        waiting = [request for line in self.lines for request in line.requests.values()]
        ahead = Ahead()
        for request in in_turn(self.order, [*waiting, *self.state.backlog.asleep()]):
            line = lines.get(request.allocation_id)
            models = self.state.models(request.demand) if line is None else self.state.models_of_line(line)
            position = ahead.of(models) + 1
            ahead.add(models)
            yield from self._new(request, line, position)
        for line in self.lines:
            line.told, line.untold = line.current, []

    def _first_and_new(self) -> Iterator[tuple[int, WaitReason]]:
        ahead = Ahead()
        for line in self.lines:
            models = self.state.models_of_line(line)
            before = ahead.of(models)
            ahead.add(models, len(line.requests))
            if line.told is not line.current or line.untold:
                for index, request in self._concerned(line, before):
                    yield from self._new(request, line, before + index + 1)
        for request in self.state.backlog.asleep():
            if request.allocation_id not in self.state.said:
                yield from self._new(request, None, ahead.of(self.state.models(request.demand)) + 1)

    def _concerned(self, line: Line, before: int) -> Iterator[tuple[int, Request]]:
        """Who is told now, with the place in the line."""
        told, current = line.told, line.current
        line.told = current
        untold, line.untold = line.untold, []
        if told is None or told.code is not current.code:
            yield from enumerate(line.in_order())
            return
        if told is not current and before < _FIRST:
            yield from enumerate(line.first(_FIRST - before))
        for request in untold:
            if request.allocation_id in line.requests:
                yield len(line.requests) - 1, request

    def _new(self, request: Request, line: Line | None, position: int) -> Iterator[tuple[int, WaitReason]]:
        if line is None:
            reason = _backs_off(request, position)
        else:
            pace_s = self.state.pace.of(request.demand.rivals)
            reason = line.current.reason(position, first=request is line.head(), pace_s=pace_s, now=self.now)
        if self.state.said.get(request.allocation_id) != reason:
            yield request.allocation_id, reason


def _backs_off(request: Request, position: int) -> WaitReason:
    detail = f"Its host failed to take it; it is tried again at {request.not_before:%H:%M:%S} UTC."
    return WaitReason(Code.HOST_NOT_AVAILABLE, detail, position)


@dataclass(slots=True)
class Ahead:
    """How many, of those seen so far, compete for the same devices; by the exact models that each could have."""

    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def of(self, models: tuple[str, ...]) -> int:
        wanted = frozenset(models)
        return sum(count for other, count in self.counts.items() if other == models or not wanted.isdisjoint(other))

    def add(self, models: tuple[str, ...], count: int = 1) -> None:
        self.counts[models] += count
