"""Which chunks become one: neighbours, within a chunk's size, and a byte is not written again and again."""

from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from api.logs.chunks import Chunk
from api.logs.runs import SMALL_BYTES, Piece, runs
from scheduler.log_records import MAX_CONTENT_BYTES

UID = UUID(int=1)
SIZES = st.lists(st.integers(1, MAX_CONTENT_BYTES), max_size=40)


def pieces(*sizes: int, gaps: frozenset[int] = frozenset()) -> list[Piece]:
    """Ten bytes of output each; before those in `gaps` something was dropped."""
    made, position = [], 0
    for number, size in enumerate(sizes):
        position += 5 if number in gaps else 0
        made.append(Piece(Chunk(UID, 0, position, 10), size))
        position += 10
    return made


def positions(found: list[Piece], *, head: int = 0, whole: bool = True) -> list[list[int]]:
    return [[piece.chunk.position for piece in run] for run in runs(found, head=head, whole=whole)]


def test_neighbours_become_one() -> None:
    assert positions(pieces(1, 2, 3)) == [[0, 10, 20]]
    assert positions(pieces(1)) == [] and positions([]) == []
    assert positions(pieces(1, 2, 3, 4, gaps=frozenset({2}))) == [[0, 10], [25, 35]]
    assert positions(pieces(1, 2, 3, 4), head=20) == [[0, 10], [20, 30]]
    half = MAX_CONTENT_BYTES // 2
    assert positions(pieces(half, half, 1, 1)) == [[0, 10], [20, 30]]
    assert positions(pieces(half + 1, half, half + 1)) == []


def test_while_a_log_goes_on_only_its_end_is_worth_it() -> None:
    large = 10 * SMALL_BYTES
    assert positions(pieces(1, large, 2, 3), whole=False) == [[20, 30]]
    assert positions(pieces(large, *[SMALL_BYTES] * 10), whole=False) == [[*range(0, 110, 10)]]
    assert positions(pieces(1, 2, large), whole=False) == []


@given(SIZES, st.booleans())
def test_a_run_is_what_fits_into_a_chunk(sizes: list[int], whole: bool) -> None:
    for run in runs(pieces(*sizes), head=0, whole=whole):
        assert len(run) > 1 and sum(piece.content_bytes for piece in run) <= MAX_CONTENT_BYTES
        assert all(first.chunk.end == second.chunk.position for first, second in pairwise(run))


def test_a_byte_is_written_a_few_times_only() -> None:
    """A hundred thousand small chunks, sixty-four at a time."""
    there: list[Piece] = []
    written = 0
    for position in range(0, 1_000_000, 10):
        there.append(Piece(Chunk(UID, 0, position, 10), 100))
        if position % 640 == 630:
            for run in runs(there, head=0, whole=False):
                size, first = sum(piece.content_bytes for piece in run), run[0].chunk
                written += size
                at = there.index(run[0])
                merged = Chunk(UID, 0, first.position, run[-1].chunk.end - first.position)
                there[at : at + len(run)] = [Piece(merged, size)]
    assert len(there) < 100
    assert written < 20 * 100_000 * 100
