"""Which elements an array has: `0-9`, `1,3,5-7`, and with `0-99%5` at most five of them at once.

Kept as ranges: an array of ten thousand elements is one short text until they start.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ELEMENTS = 10_000
ARRAY = r"^[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*(%[0-9]{1,5})?$"


@dataclass(frozen=True, slots=True)
class Array:
    """`ranges` are first and last indices, ascending and apart. `at_once` None: as many as there is room for."""

    ranges: tuple[tuple[int, int], ...]
    at_once: int | None = None

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __iter__(self) -> Iterator[int]:
        """The indices, ascending: each is a `TASK_INDEX`."""
        for first, last in self.ranges:
            yield from range(first, last + 1)


def parse_array(text: str) -> Array:
    """The elements that a text names.

    Raises:
        ValueError: it names none, one twice or more than MAX_ELEMENTS.
    """
    if not re.fullmatch(ARRAY, text):
        raise ValueError(f"{text!r} is no array; write for example 0-9, 1,3,5-7, or 0-99%5 for five at once")
    listed, _, at_once = text.partition("%")
    array = Array(_ranges(listed), int(at_once) if at_once else None)
    if array.at_once == 0:
        raise ValueError(f"{text!r}: none at once would never start; write %1 or more")
    if len(array) > MAX_ELEMENTS:
        raise ValueError(f"{text!r} has {len(array)} elements; an array has at most {MAX_ELEMENTS}")
    return array


def _ranges(listed: str) -> tuple[tuple[int, int], ...]:
    ranges = sorted(_range(part) for part in listed.split(","))
    joined = ranges[:1]
    for first, last in ranges[1:]:
        before = joined[-1][1]
        if first <= before:
            raise ValueError(f"{listed!r} names {first} twice")
        if first == before + 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)


def _range(part: str) -> tuple[int, int]:
    first, _, last = part.partition("-")
    if last and int(last) < int(first):
        raise ValueError(f"{part!r} runs backwards; write {last}-{first}")
    return int(first), int(last or first)
