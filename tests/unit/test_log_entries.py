"""Text as readers get it: never with a character cut, wherever records end and a reader stops."""

import json
import time
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from api.logs.entries import FRAME_CHARACTERS, MAX_TEXT_BYTES, Entry, dropped, entries_of, frames_of
from scheduler.log_records import Record, Stream, since

OUT, ERR = Stream.STDOUT, Stream.STDERR


def records_of(*parts: tuple[Stream, bytes | int], position: int = 0) -> list[Record]:
    records = []
    for stream, part in parts:
        if isinstance(part, int):
            records.append(Record(Stream.DROPPED, 1000, position, dropped=part))
        else:
            records.append(Record(stream, 1000, position, part))
        position = records[-1].end
    return records


def documents(entries: list[Entry]) -> list[dict[str, Any]]:
    return [json.loads(entry.json) for entry in entries]


def text_of(entries: list[Entry], stream: str) -> str:
    return "".join(document.get("text", "") for document in documents(entries) if document["stream"] == stream)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[dict[Stream, str], list[Record]]:
    """Text of both streams, cut into records at any byte and woven together."""
    texts = {stream: draw(st.text("aé€😀\r\n\0", max_size=30)) for stream in (OUT, ERR)}
    left = {stream: text.encode() for stream, text in texts.items()}
    parts: list[tuple[Stream, bytes | int]] = []
    while any(left.values()):
        stream = draw(st.sampled_from([stream for stream, data in left.items() if data]))
        size = draw(st.integers(1, len(left[stream])))
        parts.append((stream, left[stream][:size]))
        left[stream] = left[stream][size:]
    return texts, records_of(*parts, position=draw(st.integers(0, 1000)))


@given(outputs())
def test_no_character_is_cut_wherever_records_end(output: tuple[dict[Stream, str], list[Record]]) -> None:
    texts, records = output
    entries = entries_of(records)
    assert text_of(entries, "stdout") == texts[OUT] and text_of(entries, "stderr") == texts[ERR]
    assert all(a.position < b.position for a, b in pairwise(entries))
    assert not entries or (entries[0].position, entries[-1].end) == (records[0].position, records[-1].end)
    assert not entries or entries[-1].clean


@given(outputs())
def test_going_on_after_a_clean_entry_loses_and_doubles_nothing(output: tuple[dict[Stream, str], list[Record]]) -> None:
    texts, records = output
    entries = entries_of(records)
    for index, entry in enumerate(entries):
        if entry.clean:
            rest = entries_of([part for record in records if (part := since(record, entry.end))])
            both = [*entries[: index + 1], *rest]
            assert text_of(both, "stdout") == texts[OUT] and text_of(both, "stderr") == texts[ERR]


@given(st.lists(st.tuples(st.sampled_from([OUT, ERR]), st.binary(min_size=1, max_size=8)), max_size=10))
@example([(OUT, b"\xe2\x82"), (ERR, b"x"), (OUT, b"\xac")])
def test_what_is_no_text_keeps_its_place(parts: list[tuple[Stream, bytes]]) -> None:
    entries = entries_of(records_of(*parts))
    for stream, name in ((OUT, "stdout"), (ERR, "stderr")):
        whole = b"".join(data for which, data in parts if which is stream)
        assert text_of(entries, name).replace("�", "") == whole.decode(errors="replace").replace("�", "")


def test_an_entry_says_where_when_and_which_stream() -> None:
    entries = entries_of(records_of((OUT, b"10%\r"), (ERR, b"oh"), (OUT, 5), (OUT, b"20%\r"), position=7))
    at = "1970-01-01T00:00:01.000Z"
    assert documents(entries) == [
        {"position": 7, "at": at, "stream": "stdout", "text": "10%\r"},
        {"position": 11, "at": at, "stream": "stderr", "text": "oh"},
        {"position": 13, "at": at, "stream": None, "dropped": 5},
        {"position": 18, "at": at, "stream": "stdout", "text": "20%\r"},
    ]
    assert json.loads(dropped(3, 9).json) == {"position": 3, "at": None, "stream": None, "dropped": 6}


def test_a_character_that_was_cut_by_what_was_dropped_is_told() -> None:
    entries = entries_of(records_of((OUT, "€".encode()[:2]), (OUT, 100), (OUT, "€".encode()[2:])))
    assert text_of(entries, "stdout") == "��"


def test_long_records_become_entries_of_bounded_size() -> None:
    text = "x" + "€" * MAX_TEXT_BYTES
    entries = entries_of(records_of((OUT, text.encode())))
    assert text_of(entries, "stdout") == text
    assert all(a.end == b.position for a, b in pairwise(entries))
    assert all(entry.end - entry.position <= MAX_TEXT_BYTES and entry.clean for entry in entries)


def test_frames_are_bounded_whatever_is_written_and_nothing_is_left_out() -> None:
    hostile = records_of((OUT, b"\xe2\x82"), *[(ERR, bytes(MAX_TEXT_BYTES))] * 60, (OUT, b"\xac"))
    for records in (hostile, records_of(*[(OUT, b"line\n")] * 50_000)):
        entries = entries_of(records)
        frames = list(frames_of(entries))
        assert [entry for frame in frames for entry in json.loads(f"[{frame.json}]")] == documents(entries)
        assert all(len(frame.json.encode()) < 2**20 for frame in frames)
        assert len(frames) < sum(len(entry.json) for entry in entries) / FRAME_CHARACTERS + 2
        assert frames[0].position == 0 and frames[-1].end == records[-1].end


def test_interleaved_halves_of_characters_take_no_more_time_than_others() -> None:
    parts: list[tuple[Stream, bytes | int]] = [(OUT, b"\xf0"), (ERR, b"\xf0")] * 20_000
    begin = time.process_time()
    entries_of(records_of(*parts))
    assert time.process_time() - begin < 3
