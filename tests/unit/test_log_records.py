"""Records of output: what is written is read again, and what is none is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.log_records import (
    HEADER,
    BadRecordsError,
    Record,
    Stream,
    begun,
    continued,
    pack,
    since,
    unpack,
    unpack_run,
    until,
)

_PART = st.one_of(
    st.tuples(st.sampled_from([Stream.STDOUT, Stream.STDERR]), st.binary(min_size=1, max_size=50)),
    st.tuples(st.just(Stream.DROPPED), st.integers(1, 2**40)),
)


@st.composite
def runs(draw: st.DrawFn) -> list[Record]:
    """Records that follow one another."""
    position = draw(st.integers(0, 2**40))
    records = []
    for stream, part in draw(st.lists(_PART, max_size=12)):
        at_ms = draw(st.integers(0, 2**40))
        if isinstance(part, int):
            record = Record(stream, at_ms, position, dropped=part)
        else:
            record = Record(stream, at_ms, position, part)
        records.append(record)
        position = record.end
    return records


@given(runs())
def test_what_is_packed_is_unpacked(records: list[Record]) -> None:
    content = b"".join(map(pack, records))
    assert list(unpack(content)) == records
    assert unpack_run(content, records[0].position if records else 0) == records


@given(runs(), st.data())
def test_a_part_of_it_is_told_from_the_whole(records: list[Record], data: st.DataObject) -> None:
    content = b"".join(map(pack, records))
    cut = data.draw(st.integers(0, len(content)))
    whole = [len(b"".join(map(pack, records[:count]))) for count in range(len(records) + 1)]
    if cut in whole:
        assert list(unpack(content[:cut])) == records[: whole.index(cut)]
    else:
        with pytest.raises(BadRecordsError, match="not whole"):
            list(unpack(content[:cut]))


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_and_nothing_else_happens(content: bytes) -> None:
    try:
        for record in unpack(content):
            assert pack(record) in content
    except BadRecordsError:
        pass


@pytest.mark.parametrize(
    "header",
    [(2, 1, 0, 0, 0, 8), (1, 0, 0, 0, 0, 8), (1, 4, 0, 0, 0, 8), (1, 1, 1, 0, 0, 8), (1, 1, 0, 2**60, 0, 8),
     (1, 1, 0, 0, 2**63, 8), (1, 3, 0, 0, 0, 7), (1, 1, 0, 0, 0, 0), (1, 3, 0, 0, 0, 8)],
)  # fmt: skip
def test_headers_that_say_what_can_not_be_are_refused(header: tuple[int, ...]) -> None:
    with pytest.raises(BadRecordsError):
        list(unpack(HEADER.pack(*header) + bytes(header[-1])))


@given(runs(), st.data())
def test_cut_anywhere_both_parts_together_are_the_whole(records: list[Record], data: st.DataObject) -> None:
    if not records:
        return
    position = data.draw(st.integers(records[0].position, records[-1].end))
    before = [part for record in records if (part := until(record, position))]
    after = [part for record in records if (part := since(record, position))]
    assert sum(part.end - part.position for part in before) == position - records[0].position
    assert all(part.position >= position for part in after)
    assert joined([*before, *after]) == joined(records)
    unpack_run(b"".join(map(pack, [*before, *after])), records[0].position)


def joined(records: list[Record]) -> dict[Stream, bytes | int]:
    """What each stream has, and how much was dropped."""
    texts = {s: b"".join(r.data for r in records if r.stream is s) for s in (Stream.STDOUT, Stream.STDERR)}
    return {**texts, Stream.DROPPED: sum(record.dropped for record in records)}


@given(st.text(min_size=1), st.data())
def test_a_character_that_is_cut_is_found(text: str, data: st.DataObject) -> None:
    content = text.encode("utf-8", "ignore")
    cut = data.draw(st.integers(0, len(content)))
    have, missing = begun(content[:cut])
    assert content[: cut - have].decode() + content[cut - have :].decode() == content.decode()
    assert (have == 0) == (missing == 0)
    assert continued(content[cut:], 3) == missing


@given(st.binary(max_size=20))
def test_bytes_that_are_no_text_hold_nothing_up(data: bytes) -> None:
    have, missing = begun(data)
    assert 0 <= have <= 3 and 0 <= missing <= 3 and have <= len(data)
