"""Lengths of time and sizes as people write them in a task, in the same words as the command line takes.

A duration is whole numbers with units: `90s`, `30m`, `6h`, `1h30m`, `2d`, `1w`.
A size has powers of ten with `KB MB GB TB`, and powers of two with `KiB MiB GiB TiB` or the letter alone: 32GB is
32,000,000,000 bytes, 32GiB and 32G are 34,359,738,368. A number without a unit is refused, since it says nothing.
"""

import re
from decimal import Decimal

DURATION = r"^([0-9]{1,9}[smhdw]){1,5}$"
SIZE = r"^[0-9]{1,15}(\.[0-9]{1,6})? ?([KkMmGgTt]([Ii]?[Bb])?|[Bb])$"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES = {"B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for ending, base in (("", 2**10), ("B", 10**3), ("IB", 2**10))
}


def duration_s(text: str) -> int:
    """In seconds.

    Raises:
        ValueError: it is no length of time.
    """
    if not re.fullmatch(DURATION, text):
        raise ValueError(f"{text!r} is no length of time; write for example 90s, 30m, 6h, 1h30m or 2d")
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))


def size_bytes(text: str) -> int:
    """In whole bytes, rounded down.

    Raises:
        ValueError: it is no size.
    """
    if not re.fullmatch(SIZE, text):
        raise ValueError(f"{text!r} is no size; write for example 32GB (powers of ten) or 32GiB (powers of two)")
    number, unit = re.findall(r"[0-9.]+|[A-Za-z]+", text)
    return int(Decimal(number) * _BYTES[unit.upper()])


def milli(number: float) -> int:
    """In thousandths.

    Raises:
        ValueError: it is finer than that.
    """
    thousandths = round(number * 1000)
    if thousandths / 1000 != number:
        raise ValueError(f"{number} is finer than a thousandth")
    return thousandths
