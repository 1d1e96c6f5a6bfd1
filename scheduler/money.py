"""Exact money: integer micro-units of a currency, whole milliseconds, and the one rounding function."""

MILLI_PER_GPU = 1000
MS_PER_HOUR = 3_600_000
PERMILLE = 1000


def discounted_micro(price_micro: int, *, discount_permille: int) -> int:
    """A price less a discount in thousandths, rounded down to a whole micro-unit: the effective price of a hold.

    It is rounded once, here, and stored; everything else counts with the whole number.

    Raises:
        ValueError: a negative price, or a discount outside 0 to 1000.
    """
    if price_micro < 0 or not 0 <= discount_permille <= PERMILLE:
        raise ValueError("the price must not be negative, and the discount between 0 and 1000")
    return price_micro * (PERMILLE - discount_permille) // PERMILLE


def cumulative_charge_micro(*, price_micro_per_gpu_hour: int, milli: int, duration_ms: int) -> int:
    """Charge for holding `milli`/1000 of a GPU for `duration_ms`, rounded half up to a whole micro-unit.

    It is always computed from the beginning of a usage interval, so that a posting is this value less what was posted
    before and rounding never accumulates.

    Raises:
        ValueError: for a negative argument.
    """
    if price_micro_per_gpu_hour < 0 or milli < 0 or duration_ms < 0:
        raise ValueError("price, share and duration must not be negative")
    numerator = price_micro_per_gpu_hour * milli * duration_ms
    denominator = MILLI_PER_GPU * MS_PER_HOUR
    return (2 * numerator + denominator) // (2 * denominator)


def worst_case_charge_micro(*, price_micro_per_gpu_hour: int, milli: int, duration_ms: int) -> int:
    """An upper bound of any posting for that time, for holds: the same charge rounded up."""
    if price_micro_per_gpu_hour < 0 or milli < 0 or duration_ms < 0:
        raise ValueError("price, share and duration must not be negative")
    return -(-price_micro_per_gpu_hour * milli * duration_ms // (MILLI_PER_GPU * MS_PER_HOUR))


def affordable_ms(*, budget_micro: int, price_micro_per_gpu_hour: int, milli: int) -> int | None:
    """The longest time whose worst case `budget_micro` covers; None where it costs nothing, so that any time is.

    Raises:
        ValueError: for a negative argument.
    """
    if budget_micro < 0 or price_micro_per_gpu_hour < 0 or milli < 0:
        raise ValueError("budget, price and share must not be negative")
    rate = price_micro_per_gpu_hour * milli
    return None if rate == 0 else budget_micro * MILLI_PER_GPU * MS_PER_HOUR // rate
