"""The output of an attempt as records, as the runner writes it, hosts ship it and the platform keeps it.

A record is a header and the bytes that were written to one stream at one time. Positions count the bytes of both
streams together from the attempt's begin, also those that were dropped, so a position names a place for good.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct(">BBHQQI")  # version, stream, 0, milliseconds since the epoch, position, length of what follows
VERSION = 1
MAX_CONTENT_BYTES = 4 * 2**20  # of records that travel and are kept together, headers included
MAX_TIME_MS = 253_402_300_799_999  # the last that a datetime can hold
MAX_POSITION = 2**62

_COUNT = struct.Struct(">Q")
_UNREADABLE = "the records can't be read: {}"


class Stream(IntEnum):
    STDOUT = 1
    STDERR = 2
    DROPPED = 3  # nothing is left of it but how much it was


class BadRecordsError(Exception):
    """Bytes that are no records; the message says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """`dropped` bytes for the stream `DROPPED`, else `data`, which is not empty."""

    stream: Stream
    at_ms: int
    position: int
    data: bytes = b""
    dropped: int = 0

    @property
    def end(self) -> int:
        """The position after its last byte."""
        return self.position + (self.dropped or len(self.data))


def pack(record: Record) -> bytes:
    data = _COUNT.pack(record.dropped) if record.dropped else record.data
    return HEADER.pack(VERSION, record.stream, 0, record.at_ms, record.position, len(data)) + data


def unpack(content: bytes) -> Iterator[Record]:
    """The records of `content`.

    Raises:
        BadRecordsError: at the first thing that is none, such as a record of which a part is missing.
    """
    view, offset = memoryview(content), 0
    while offset < len(content):
        record, offset = unpack_one(view, offset)
        yield record


def size_at(content: memoryview, offset: int) -> int | None:
    """The size of the record at `offset`, header included; None if not even its header is whole. Nothing is checked."""
    if offset + HEADER.size > len(content):
        return None
    return HEADER.size + int(HEADER.unpack_from(content, offset)[-1])


def unpack_one(content: memoryview, offset: int) -> tuple[Record, int]:
    """The record at `offset`, and where the next one begins.

    Raises:
        BadRecordsError
    """
    start = offset + HEADER.size
    if start > len(content):
        raise BadRecordsError(_UNREADABLE.format("the last header is not whole"))
    version, number, zero, at_ms, position, length = HEADER.unpack_from(content, offset)
    end = start + length
    if version != VERSION or zero or number not in (1, 2, 3):
        raise BadRecordsError(_UNREADABLE.format(f"unknown version {version}, stream {number} or flags {zero}"))
    if at_ms > MAX_TIME_MS or position > MAX_POSITION:
        raise BadRecordsError(_UNREADABLE.format("a time or position is out of range"))
    if end > len(content):
        raise BadRecordsError(_UNREADABLE.format("the last record is not whole"))
    if not length or (number == Stream.DROPPED and length != _COUNT.size):
        raise BadRecordsError(_UNREADABLE.format(f"{length} bytes is no length in stream {number}"))
    if number != Stream.DROPPED:
        return Record(Stream(number), at_ms, position, bytes(content[start:end])), end
    (dropped,) = _COUNT.unpack_from(content, start)
    if not 0 < dropped <= MAX_POSITION:
        raise BadRecordsError(_UNREADABLE.format(f"{dropped} bytes can't have been dropped"))
    return Record(Stream.DROPPED, at_ms, position, dropped=dropped), end


def unpack_run(content: bytes, position: int) -> list[Record]:
    """The records of `content`, if they follow one another from `position` on.

    Raises:
        BadRecordsError
    """
    records = []
    for record in unpack(content):
        if record.position != position:
            raise BadRecordsError(_UNREADABLE.format(f"one is at {record.position} where {position} follows"))
        position = record.end
        records.append(record)
    return records


def since(record: Record, position: int) -> Record | None:
    """What is left of a record without what lies before `position`; None if that is nothing."""
    if position <= record.position:
        return record
    if position >= record.end:
        return None
    cut = position - record.position
    if record.stream == Stream.DROPPED:
        return Record(Stream.DROPPED, record.at_ms, position, dropped=record.dropped - cut)
    return Record(record.stream, record.at_ms, position, record.data[cut:])


def until(record: Record, position: int) -> Record | None:
    """What lies before `position` of a record; None if that is nothing."""
    if position >= record.end:
        return record
    if position <= record.position:
        return None
    keep = position - record.position
    if record.stream == Stream.DROPPED:
        return Record(Stream.DROPPED, record.at_ms, record.position, dropped=keep)
    return Record(record.stream, record.at_ms, record.position, record.data[:keep])


def begun(data: bytes) -> tuple[int, int]:
    """The character of UTF-8 that `data` ends within: how many of its bytes are there, and how many are to come.

    (0, 0) where `data` ends with a whole one, or with what is none at all.
    """
    for have in range(1, min(3, len(data)) + 1):
        byte = data[-have]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 0
            return (have, size - have) if size > have else (0, 0)
    return 0, 0


def continued(data: bytes, most: int) -> int:
    """How many bytes at the begin of `data`, at most `most`, can only go on with a character that began before."""
    count = 0
    while count < min(most, len(data)) and 0x80 <= data[count] < 0xC0:
        count += 1
    return count
