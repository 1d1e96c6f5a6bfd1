"""Time as half-open spans of whole milliseconds, and the union that makes proof of usage independent of its order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """`from_ms` counts, `to_ms` does not.

    Raises:
        ValueError: for an empty or backward span.
    """

    from_ms: int
    to_ms: int

    def __post_init__(self) -> None:
        if self.to_ms <= self.from_ms:
            raise ValueError("a span must have a length")

    @property
    def length_ms(self) -> int:
        return self.to_ms - self.from_ms


@dataclass(frozen=True, slots=True)
class Absorption:
    """What proof changes: the spans that it touched are replaced by `merged`, which are `gained_ms` longer in all."""

    merged: tuple[Span, ...]
    gained_ms: int


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same time as few, sorted spans with gaps between them. Spans that only touch are joined."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.from_ms <= joined[-1].to_ms:
            joined[-1] = Span(joined[-1].from_ms, max(joined[-1].to_ms, span.to_ms))
        else:
            joined.append(span)
    return tuple(joined)


def total_ms(spans: Iterable[Span]) -> int:
    """The length of the union."""
    return sum(span.length_ms for span in union(spans))


def absorb(touched: Sequence[Span], proof: Iterable[Span]) -> Absorption:
    """Add `proof` to `touched`: every known span, disjoint from each other, that overlaps or touches the proof."""
    merged = union([*touched, *proof])
    return Absorption(merged, total_ms(merged) - sum(span.length_ms for span in touched))


def clip(span: Span, *, not_before_ms: int, not_after_ms: int) -> Span | None:
    """The part of `span` within the bounds, None if there is none."""
    start, end = max(span.from_ms, not_before_ms), min(span.to_ms, not_after_ms)
    return Span(start, end) if start < end else None
