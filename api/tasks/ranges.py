"""Sets of indices as ranges: what of an array has not started is a short text, however many elements that is."""

from collections.abc import Iterable, Sequence

Ranges = tuple[tuple[int, int], ...]
"""First and last indices, ascending and apart."""


def count(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def contains(ranges: Ranges, index: int) -> bool:
    return any(first <= index <= last for first, last in ranges)


def take(ranges: Ranges, most: int) -> tuple[list[int], Ranges]:
    """The smallest `most` indices, or all if there are fewer, and what is left."""
    taken: list[int] = []
    for place, (first, last) in enumerate(ranges):
        room = most - len(taken)
        if room <= last - first:
            taken += range(first, first + room)
            return taken, ((first + room, last), *ranges[place + 1 :])
        taken += range(first, last + 1)
    return taken, ()


def put(ranges: Ranges, indices: Iterable[int]) -> Ranges:
    """With these indices too."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted([*ranges, *((index, index) for index in indices)]):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def to_text(ranges: Sequence[tuple[int, int]]) -> str:
    """As `0-4,7`."""
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def from_text(text: str) -> Ranges:
    """What `to_text` wrote."""
    parts = (part.partition("-") for part in text.split(",") if part)
    return tuple((int(first), int(last or first)) for first, _, last in parts)
