"""Whose turn it is: the lines of a cycle in order, as what is given on the way changes it.

Inside a capacity group the order is that of ranks. Of the first lines of the groups, one that stays within its group's
own quota comes before one that borrows; else the better rank does.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.engine.backlog import Line
from scheduler.engine.order import Order, Rank
from scheduler.views import Request

_Ranked = tuple[Rank, int, Line]  # with the order's version; ranks differ, so that lines are never compared


@dataclass(slots=True)
class Turns:
    """While something is given, ranks only become worse: what was true of one before is its lower bound."""

    order: Order
    _lines: dict[str, list[_Ranked]] = field(default_factory=dict)
    _groups: list[tuple[bool, Rank, str]] = field(default_factory=list)
    _last: str | None = None  # the group of the line before

    @staticmethod
    def of(order: Order, lines: Iterable[Line]) -> "Turns":
        turns = Turns(order)
        for line in lines:
            turns._lines.setdefault(order.group(line.kind), []).append(turns._ranked(line))
        for name, ranked in turns._lines.items():
            heapq.heapify(ranked)
            turns._groups.append(turns._first(name))
        heapq.heapify(turns._groups)
        return turns

    def next(self) -> Line | None:
        if self._last is not None and self._lines[self._last]:
            heapq.heappush(self._groups, self._first(self._last))
        while self._groups:
            group = heapq.heappop(self._groups)
            self._last = name = group[2]
            fresh = self._first(name)
            if fresh <= group:
                return heapq.heappop(self._lines[name])[2]
            heapq.heappush(self._groups, fresh)
        return None

    def again(self, line: Line) -> None:
        """Its next request has a turn too."""
        heapq.heappush(self._lines[self.order.group(line.kind)], self._ranked(line))

    def _first(self, name: str) -> tuple[bool, Rank, str]:
        ranked = self._lines[name]
        while ranked[0][1] != self.order.version:
            heapq.heapreplace(ranked, self._ranked(ranked[0][2]))
        rank, _, line = ranked[0]
        head = line.head()
        assert head is not None
        return self.order.borrows(head), rank, name

    def _ranked(self, line: Line) -> _Ranked:
        head = line.head()
        assert head is not None, "a line without requests has no turn"
        return self.order.rank(head), self.order.version, line


def in_turn(order: Order, requests: Iterable[Request]) -> list[Request]:
    """Requests in the same order, as if none of them was given anything."""
    groups: dict[str, list[tuple[Rank, Request]]] = {}
    for request in requests:
        groups.setdefault(order.group(request), []).append((order.rank(request), request))
    for ranked in groups.values():
        ranked.sort(key=lambda pair: pair[0], reverse=True)
    if len(groups) == 1:
        return [request for ranked in groups.values() for _, request in reversed(ranked)]
    firsts = [(order.borrows(ranked[-1][1]), ranked[-1][0], name) for name, ranked in groups.items()]
    heapq.heapify(firsts)
    found = []
    while firsts:
        name = firsts[0][2]
        found.append(groups[name].pop()[1])
        if groups[name]:
            rank, request = groups[name][-1]
            heapq.heapreplace(firsts, (order.borrows(request), rank, name))
        else:
            heapq.heappop(firsts)
    return found
