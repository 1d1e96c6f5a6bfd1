"""Which chunks of a log are worth being one."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.logs.chunks import Chunk
from scheduler.log_records import MAX_CONTENT_BYTES

SMALL_BYTES = 64 * 2**10  # of records


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk that is kept, and how many bytes of records it has."""

    chunk: Chunk
    content_bytes: int


Run = Sequence[Piece]
"""Neighbours, two at least, that together are no more than a chunk may be."""


def runs(pieces: Sequence[Piece], *, head: int, whole: bool) -> list[Run]:
    """What becomes one chunk each. `pieces` are all that is kept, in order.

    While a log goes on that is only at its end. What lies before `head` stays apart: it is never dropped.
    """
    found: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces if whole else _newest(pieces):
        run = found[-1]
        apart = bool(run) and (run[-1].chunk.end != piece.chunk.position or piece.chunk.position == head)
        if apart or size + piece.content_bytes > MAX_CONTENT_BYTES:
            found.append([])
            size = 0
        found[-1].append(piece)
        size += piece.content_bytes
    return [run for run in found if len(run) > 1]


def _newest(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """The small ones at the end, and before them what is no larger than all of these: so what was merged is merged
    again only when that doubles it, and a byte is written as often as the logarithm of a chunk's size says."""
    start, size = len(pieces), 0
    while start and pieces[start - 1].content_bytes <= max(size, SMALL_BYTES):
        start -= 1
        size += pieces[start].content_bytes
    return pieces[start:]
