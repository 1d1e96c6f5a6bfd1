"""The windows that hosts reported: together they contain all that the records say was proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from remotegpu.bill.bodies import Group, Window
from remotegpu.bill.lines import BadLine
from remotegpu.bill.spans import Proof, Spans


@dataclass
class Windows:
    """`spans` is what has to be proven, by device; `milli` the share of each."""

    spans: Mapping[Group, Spans]
    milli: Mapping[Group, int]
    taken: int = 0
    _last: tuple[Group, int, int] | None = None
    _proof: Proof | None = None
    _proven: set[Group] = field(default_factory=set)

    def take(self, number: int, window: Window) -> None:
        self._check(number, window)
        key = (window.group, window.billed_from_ms, window.billed_to_ms)
        if self._last is not None and key < self._last:
            raise BadLine(number, "the window does not belong after the one before")
        if self._last is None or self._last[0] != window.group:
            self._complete(number)
            self._proof = Proof(self.spans[window.group])
            self._proven.add(window.group)
        assert self._proof is not None
        if missing := self._proof.take(window.billed_from_ms, window.billed_to_ms):
            raise BadLine(number, _unproven(missing))
        self._last = key
        self.taken += 1

    def _check(self, number: int, window: Window) -> None:
        spans = self.spans.get(window.group)
        if spans is None or not spans.overlaps(window.billed_from_ms, window.billed_to_ms):
            raise BadLine(number, "the window proves none of the file's records")
        if not window.from_ms <= window.billed_from_ms < window.billed_to_ms <= window.to_ms:
            raise BadLine(number, "more of the window counts than it is long")
        whole = (window.from_ms, window.to_ms) == (window.billed_from_ms, window.billed_to_ms)
        if not whole and window.quarantine is None:
            raise BadLine(number, "a part of the window does not count, and nothing says why")
        if window.milli != self.milli[window.group]:
            raise BadLine(number, "the window is of another share of the device than its meter")

    def finish(self, number: int) -> None:
        """No more windows come: line `number` is of another kind."""
        self._complete(number)
        for group, spans in self.spans.items():
            if group not in self._proven:
                raise BadLine(number, _unproven((spans.starts[0], spans.ends[0])))

    def _complete(self, number: int) -> None:
        if self._proof is not None and (missing := self._proof.missing):
            raise BadLine(number, _unproven(missing))


def _unproven(missing: tuple[int, int]) -> str:
    return f"the windows before it leave the time from {missing[0]} to {missing[1]} ms of a device unproven"
