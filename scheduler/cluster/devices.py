"""Which devices of one host: those that NVLink joins, without breaking up more than that takes."""

from collections.abc import Sequence
from functools import lru_cache


@lru_cache(maxsize=8192)
def pick(links: Sequence[int], free: int, count: int, shunned: int) -> tuple[int, ...]:
    """`count` of the `free` devices (a bit mask of columns), in ascending order.

    The set has as many links inside as a greedy search finds; among such sets, as few as possible from it to other
    free devices, so that joined ones stay together for others; then as few `shunned` ones as possible; then the first.
    `links` has each column's mask of peers.

    Raises:
        ValueError: fewer are free.
    """
    columns = _bits(free)
    if count > len(columns):
        raise ValueError(f"{count} devices of {len(columns)}")
    inside = [links[column] & free for column in columns]
    if all(peers == inside[0] | 1 << columns[0] for peers in _with_themselves(columns, inside)):
        inside = [0] * len(columns)  # every set is as good
    if count in (0, len(columns)) or not any(inside):
        return tuple(sorted(sorted(columns, key=lambda column: (shunned >> column & 1, column))[:count]))
    sets = [_grown(links, free, seed, count, shunned) for seed in columns]
    best = min(sets, key=lambda chosen: _cost(links, free, chosen, shunned))
    return tuple(_bits(best))


def _with_themselves(columns: Sequence[int], peers: Sequence[int]) -> list[int]:
    return [mask | 1 << column for column, mask in zip(columns, peers, strict=True)]


def _grown(links: Sequence[int], free: int, seed: int, count: int, shunned: int) -> int:
    chosen = 1 << seed
    for _ in range(count - 1):
        rest = free & ~chosen
        chosen |= 1 << min(
            _bits(rest),
            key=lambda column: (
                -(links[column] & chosen).bit_count(),
                (links[column] & rest).bit_count(),
                shunned >> column & 1,
                column,
            ),
        )
    return chosen


def _cost(links: Sequence[int], free: int, chosen: int, shunned: int) -> tuple[int, int, int, list[int]]:
    columns = _bits(chosen)
    inside = sum((links[column] & chosen).bit_count() for column in columns)
    broken = sum((links[column] & free & ~chosen).bit_count() for column in columns)
    return -inside, broken, (chosen & shunned).bit_count(), columns


def _bits(mask: int) -> list[int]:
    return [column for column in range(mask.bit_length()) if mask >> column & 1]
