"""Which devices of one host: those that NVLink joins, without breaking up more than that takes."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

_MAX_SETS = 256  # looked at one by one: all there are on a host of eight GPUs


@lru_cache(maxsize=8192)
def pick(links: Sequence[int], free: int, count: int, shunned: int) -> tuple[int, ...]:
    """`count` of the `free` devices (a bit mask of columns), in ascending order.

    The set has as many links inside as possible; among such sets, as few as possible from it to other free devices, so
    that joined ones stay together for others; then as few `shunned` ones as possible; then the first. `links` has each
    column's mask of peers. On hosts with many more than eight free devices the search is greedy.

    Raises:
        ValueError: fewer are free.
    """
    columns = _bits(free)
    if count > len(columns):
        raise ValueError(f"{count} devices of {len(columns)}")
    if count in (0, len(columns)) or _alike(columns, links, free):
        return tuple(sorted(sorted(columns, key=lambda column: (shunned >> column & 1, column))[:count]))
    sets: Iterable[int]
    if comb(len(columns), count) <= _MAX_SETS:
        sets = (sum(1 << column for column in chosen) for chosen in combinations(columns, count))
    else:
        sets = (_grown(links, free, seed, count, shunned) for seed in columns)
    return tuple(_bits(min(sets, key=lambda chosen: _cost(links, free, chosen, shunned))))


def _alike(columns: Sequence[int], links: Sequence[int], free: int) -> bool:
    """Whether all are joined, or none: every set is as good."""
    peers = [links[column] & free for column in columns]
    return not any(peers) or all(mask | 1 << column == free for column, mask in zip(columns, peers, strict=True))


def _grown(links: Sequence[int], free: int, seed: int, count: int, shunned: int) -> int:
    """From one device on, always the one with the most links to those chosen."""
    chosen = 1 << seed
    for _ in range(count - 1):
        chosen |= 1 << min(
            _bits(free & ~chosen),
            key=lambda column: (-(links[column] & chosen).bit_count(), shunned >> column & 1, column),
        )
    return chosen


def _cost(links: Sequence[int], free: int, chosen: int, shunned: int) -> tuple[int, int, int, list[int]]:
    columns = _bits(chosen)
    inside = sum((links[column] & chosen).bit_count() for column in columns)
    broken = sum((links[column] & free & ~chosen).bit_count() for column in columns)
    return -inside, broken, (chosen & shunned).bit_count(), columns


def _bits(mask: int) -> list[int]:
    return [column for column in range(mask.bit_length()) if mask >> column & 1]
