"""What time costs: whole micro-units, computed with integers of any size."""

from __future__ import annotations

_MILLI_MS_PER_HOUR = 1000 * 60 * 60 * 1000
_PERMILLE = 1000


def charge(*, price_micro: int, milli: int, duration_ms: int) -> int:
    """The price of `milli` thousandths of a device for a time, to the nearest micro-unit; a half is rounded up."""
    units, rest = divmod(price_micro * milli * duration_ms, _MILLI_MS_PER_HOUR)
    return units + 1 if 2 * rest >= _MILLI_MS_PER_HOUR else units


def discounted(price_micro: int, *, permille: int) -> int:
    """A price less a discount, rounded down."""
    return price_micro * (_PERMILLE - permille) // _PERMILLE
