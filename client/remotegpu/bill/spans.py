"""Time as sorted, disjoint spans of whole milliseconds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Spans:
    """Spans that touch are kept as one: memory grows with gaps only. `from` belongs to a span, `to` does not."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any moment of start..end is in one of the spans."""
        after = bisect_right(self.ends, start)  # the first span that ends after `start`
        return after < len(self.starts) and self.starts[after] < end

    def add(self, start: int, end: int) -> bool:
        """Add a span; False, and nothing is added, if a moment of it is in one of them already."""
        if self.overlaps(start, end):
            return False
        at = bisect_left(self.starts, start)
        joins_before = at > 0 and self.ends[at - 1] == start
        joins_after = at < len(self.starts) and self.starts[at] == end
        if joins_before and joins_after:
            self.ends[at - 1] = self.ends.pop(at)
            del self.starts[at]
        elif joins_before:
            self.ends[at - 1] = end
        elif joins_after:
            self.starts[at] = start
        else:
            self.starts.insert(at, start)
            self.ends.insert(at, end)
        return True


class Proof:
    """Checks that windows, which come in order of their begin, together contain every moment of some spans."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._next = 0  # the span that is not contained yet
        self._from = spans.starts[0] if spans.starts else 0  # its first moment of which that is so

    @property
    def missing(self) -> tuple[int, int] | None:
        """The first time that no window has contained so far."""
        if self._next == len(self._spans.starts):
            return None
        return self._from, self._spans.ends[self._next]

    def take(self, start: int, end: int) -> tuple[int, int] | None:
        """Take the next window. Answers the time before it that no window contains, None if there is none."""
        while (missing := self.missing) is not None and missing[0] < end:
            if missing[0] < start:
                return missing[0], min(start, missing[1])
            self._advance(end)
        return None

    def _advance(self, to: int) -> None:
        if to < self._spans.ends[self._next]:
            self._from = to
            return
        self._next += 1
        if self._next < len(self._spans.starts):
            self._from = self._spans.starts[self._next]
