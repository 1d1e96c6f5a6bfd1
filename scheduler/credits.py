"""Credits that lapse: which of them are spent first, and what of those whose day has come stays for what runs."""

from collections.abc import Sequence


def spend(left_micro: Sequence[int], used_micro: int) -> list[int]:
    """What is left of credits, in the order in which they are spent, when so much more was used.

    Raises:
        ValueError: for a negative argument.
    """
    _check(left_micro, used_micro)
    after = []
    for left in left_micro:
        taken = min(left, used_micro)
        used_micro -= taken
        after.append(left - taken)
    return after


def keep(left_micro: Sequence[int], held_micro: int) -> list[int]:
    """What stays of credits whose day has come: as much as is held for what runs, since that is paid with them first.

    Raises:
        ValueError: for a negative argument.
    """
    _check(left_micro, held_micro)
    return [before - after for before, after in zip(left_micro, spend(left_micro, held_micro), strict=True)]


def _check(left_micro: Sequence[int], amount_micro: int) -> None:
    if amount_micro < 0 or any(left < 0 for left in left_micro):
        raise ValueError("amounts must not be negative")
