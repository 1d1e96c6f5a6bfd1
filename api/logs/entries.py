"""From records to what readers get: entries of text as JSON, which never cut a character of UTF-8.

A character whose bytes came in two records belongs to the one in which it begins. So text is the same wherever chunks
and records end, as long as a chunk does not end within a character, for which hosts take care.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from scheduler.log_records import Record, Stream, begun, continued

MAX_TEXT_BYTES = 2**16  # of output in one entry
FRAME_CHARACTERS = 2**18  # of JSON in one message, and below 1 MiB in any case, which many clients take at most

STREAMS = {Stream.STDOUT: "stdout", Stream.STDERR: "stderr"}


@dataclass(frozen=True, slots=True)
class Entry:
    """`json` is its document. A reader may stop after it and go on at `end` only if it is `clean`: else another
    stream's character would be cut there."""

    position: int
    end: int
    stream: Stream
    json: str
    clean: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """Entries for one message. `json` is what stands between the brackets of a list of them."""

    position: int
    end: int
    json: str


@dataclass(slots=True)
class _Piece:
    """What becomes entries. `inside` one, a character of the other stream is cut, whose end comes later."""

    record: Record
    position: int
    data: bytearray
    end: int
    clean: bool = True
    inside: bool = False


@dataclass(slots=True)
class _Cut:
    """A character that misses bytes at the end of a piece."""

    index: int
    missing: int


def entries_of(records: Iterable[Record]) -> list[Entry]:
    """Of records that follow one another."""
    pieces: list[_Piece] = []
    cut: dict[Stream, _Cut] = {}
    for record in records:
        if record.stream is Stream.DROPPED:
            cut.clear()
            pieces.append(_Piece(record, record.position, bytearray(), record.end))
            continue
        taken = _complete(pieces, cut, record)
        if taken < len(record.data):
            data = record.data[taken:]
            pieces.append(_Piece(record, record.position + taken, bytearray(data), record.end))
            _, missing = begun(data)
            if missing:
                cut[record.stream] = _Cut(len(pieces) - 1, missing)
    return [entry for piece in pieces for entry in _split(piece)]


def dropped(position: int, end: int, at_ms: int = 0) -> Entry:
    """That there is nothing left between two positions. 0: it is not known since when."""
    at = f'"{_time(at_ms)}"' if at_ms else "null"
    document = f'{{"position":{position},"at":{at},"stream":null,"dropped":{end - position}}}'
    return Entry(position, end, Stream.DROPPED, document, True)


def frames_of(entries: Sequence[Entry]) -> Iterator[Frame]:
    """All of them, in messages of a bounded size."""
    documents: list[str] = []
    size = start = 0
    for index, entry in enumerate(entries):
        start = start if documents else entry.position
        documents.append(entry.json)
        size += len(entry.json)
        full = size >= FRAME_CHARACTERS and (entry.clean or size >= 2 * FRAME_CHARACTERS)
        if full or index == len(entries) - 1:
            yield Frame(start, entry.end, ",".join(documents))
            documents, size = [], 0


def _complete(pieces: list[_Piece], cut: dict[Stream, _Cut], record: Record) -> int:
    """Give the bytes at the begin of a record to the character that they belong to; how many they are."""
    begin = cut.pop(record.stream, None)
    taken = continued(record.data, begin.missing) if begin else 0
    if begin is None or not taken:
        return 0
    pieces[begin.index].data += record.data[:taken]
    for piece in pieces[begin.index : -1]:
        piece.clean = False
    for piece in pieces[begin.index + 1 :]:
        piece.inside = True
    pieces[-1].end = record.position + taken
    if taken == len(record.data) and taken < begin.missing:
        cut[record.stream] = _Cut(begin.index, begin.missing - taken)
    return taken


def _split(piece: _Piece) -> Iterator[Entry]:
    record, data = piece.record, piece.data
    if record.stream is Stream.DROPPED:
        yield dropped(record.position, record.end, record.at_ms)
        return
    start = 0
    while start < len(data):
        stop = _stop(data, start)
        whole = stop == len(data)
        position, end = piece.position + start, piece.end if whole else piece.position + stop
        document = _document(record, position, data[start:stop])
        yield Entry(position, end, record.stream, document, piece.clean if whole else not piece.inside)
        start = stop


def _stop(data: bytearray, start: int) -> int:
    """Where an entry that begins at `start` ends: before a character that it would cut."""
    stop = start + MAX_TEXT_BYTES
    if stop >= len(data):
        return len(data)
    have, missing = begun(bytes(data[stop - 3 : stop]))
    return stop - have if missing else stop


def _document(record: Record, position: int, data: bytearray) -> str:
    text = json.dumps(data.decode(errors="replace"), ensure_ascii=False)
    stream = STREAMS[record.stream]
    return f'{{"position":{position},"at":"{_time(record.at_ms)}","stream":"{stream}","text":{text}}}'


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
