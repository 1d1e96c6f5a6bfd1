"""Output that waits on this host: a directory of segments, which the task's container can write to as it likes.

So nothing in it is believed. Links are not followed, what is read is bounded, and whatever it says, what leaves here
are records that follow one another: where some are missing, a mark says so.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from scheduler.log_records import (
    HEADER,
    MAX_CONTENT_BYTES,
    MAX_POSITION,
    BadRecordsError,
    Record,
    Stream,
    begun,
    continued,
    pack,
    since,
    size_at,
    unpack_one,
    until,
)

MERGED_BYTES = 2**16  # small records of one stream become one, if they are of nearly the same time
MERGED_MS = 10

_NAME = re.compile(r"[0-9]{20}\.log")
_MAX_FILES = 10_000
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that follow one another from `position` to `end`. `full`: there is more."""

    position: int
    end: int
    records: Sequence[Record]
    full: bool

    def content(self) -> bytes:
        return b"".join(map(pack, self.records))

    def before(self, position: int) -> "Batch":
        """What of it lies there; the rest is for later."""
        if position >= self.end:
            return self
        end = max(position, self.position)
        records = [part for record in self.records if (part := until(record, end))]
        return Batch(self.position, end, records, full=False)


class _Collected:
    """A batch in the making."""

    def __init__(self, position: int) -> None:
        self.end = position
        self.full = False
        self._records: list[Record] = []
        self._last: Record | None = None  # its data is still to come from `_data`
        self._data = bytearray()
        self._size = 0

    def records(self) -> list[Record]:
        self._finish_last()
        return self._records

    def add(self, record: Record) -> bool:
        """Take what is new in it; False if it does not fit any more."""
        if record.position > self.end and not self.mark(record.position, record.at_ms):
            return False
        rest = since(record, self.end)
        if rest is None:
            return True
        merged = self._goes_on(rest)
        size = len(rest.data) + (0 if merged else HEADER.size + (8 if rest.dropped else 0))
        if self._size + size > MAX_CONTENT_BYTES:
            self.full = True
            return False
        if not merged:
            self._finish_last()
            self._last = rest
        self._data += rest.data
        self._size += size
        self.end = rest.end
        return True

    def mark(self, position: int, at_ms: int) -> bool:
        """That nothing is there up to `position`."""
        return self.add(Record(Stream.DROPPED, at_ms, self.end, dropped=position - self.end))

    def _goes_on(self, record: Record) -> bool:
        before = self._last
        if before is None or before.stream is not record.stream or record.stream is Stream.DROPPED:
            return False
        near = abs(record.at_ms - before.at_ms) <= MERGED_MS
        return near and len(self._data) + len(record.data) <= MERGED_BYTES

    def _finish_last(self) -> None:
        if self._last is not None:
            self._records.append(replace(self._last, data=bytes(self._data)))
            self._last = None
            self._data.clear()


class Segments:
    """For one thread at a time. `directory` is the one that the container sees, and the segments are in its `log`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._position = -1  # where reading went on, if nothing was read in between
        self._file: int | None = None
        self._first = 0  # the number in the open file's name
        self._offset = 0
        self._spent: set[int] = set()

    def begin(self) -> int:
        """The position of the oldest segment, 0 if there is none."""
        with self._opened() as directory:
            return min(_names(directory), default=0)

    def read(self, position: int, *, final: bool) -> Batch:
        """What there is from `position` on. `final`: nobody writes any more.

        A character whose end is still to come is left for later, unless it is `final` and so never comes.
        """
        if position != self._position:
            self.reset()
        collected = _Collected(position)
        with self._opened() as directory:
            names = _names(directory) - self._spent
            while not collected.full and self._open_next(directory, names, collected):
                complete = final or any(name > self._first for name in names)
                if not self._take(collected) or not complete:
                    break
                self._spent.add(self._first)
                names.discard(self._first)
                self._close()
        exhausted = final and not collected.full
        records = collected.records() if exhausted else _without_cut(collected.records())
        end = records[-1].end if records else position
        self._position = end if end == collected.end else -1
        return Batch(position, end, records, collected.full)

    def forget(self, position: int) -> None:
        """Delete segments of which all is before `position`."""
        with self._opened() as directory:
            names = sorted(_names(directory))
            for name, following in pairwise(names):
                if following <= position:
                    _unlink(name, directory)

    def reset(self) -> None:
        """Look again at what there is, at the next reading."""
        self._close()
        self._spent.clear()
        self._position = -1

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The directory of the segments; None if there is none."""
        directory = _open_directory(self._directory)
        try:
            yield directory
        finally:
            if directory is not None:
                os.close(directory)

    def _open_next(self, directory: int | None, names: set[int], collected: _Collected) -> bool:
        """Have a segment open that goes on where `collected` ends; False if there is none."""
        while self._file is None:
            before = [name for name in names if name <= collected.end]
            first = max(before) if before else min(names, default=None)
            if first is None or directory is None:
                return False
            if first > collected.end and not collected.mark(first, 0):
                return False
            self._file, self._first, self._offset = _open(first, directory), first, 0
            if self._file is None:
                names.discard(first)
                self._spent.add(first)
        return True

    def _take(self, collected: _Collected) -> bool:
        """Read on in the open segment; whether all that is in it was taken, or can't be."""
        assert self._file is not None
        while True:
            content = os.pread(self._file, MAX_CONTENT_BYTES, self._offset)
            used, fits = _records_into(collected, memoryview(content))
            self._offset += used
            if not fits:
                return False
            if not used or len(content) < MAX_CONTENT_BYTES:
                return True


def _records_into(collected: _Collected, content: memoryview) -> tuple[int, bool]:
    """Take the whole records at the begin of `content`: how many bytes they are, and whether all of them fitted."""
    offset = 0
    while (size := size_at(content, offset)) is not None and offset + size <= len(content):
        try:
            record, end = unpack_one(content, offset)
        except BadRecordsError:
            return offset, True
        if record.end > MAX_POSITION:
            return offset, True
        if not collected.add(record):
            return offset, False
        offset = end
    return offset, True


def _without_cut(records: list[Record]) -> list[Record]:
    """Up to the first character that is not whole; all, if there would be nothing left but other things follow it."""
    cuts: dict[Stream, tuple[int, int]] = {}  # where one began, and how many of its bytes are missing
    for record in records:
        if record.stream is Stream.DROPPED:
            cuts.clear()
            continue
        begin, missing = cuts.pop(record.stream, (0, 0))
        taken = continued(record.data, missing)
        if taken and taken == len(record.data) and taken < missing:
            cuts[record.stream] = (begin, missing - taken)
            continue
        have, missing = begun(record.data)
        if missing:
            cuts[record.stream] = (record.end - have, missing)
    if not cuts:
        return records
    cut = min(begin for begin, _ in cuts.values())
    if cut == records[0].position and len(records) > 1:
        return records
    return [part for record in records if (part := until(record, cut))]


def _open_directory(path: Path) -> int | None:
    try:
        outer = os.open(path, os.O_DIRECTORY | _FLAGS)
    except OSError:
        return None
    try:
        return os.open("log", os.O_DIRECTORY | _FLAGS, dir_fd=outer)
    except OSError:
        return None
    finally:
        os.close(outer)


def _names(directory: int | None) -> set[int]:
    if directory is None:
        return set()
    found: set[int] = set()
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count >= _MAX_FILES:
                break
            if _NAME.fullmatch(entry.name):
                found.add(int(entry.name[:20]))
    return {name for name in found if name <= MAX_POSITION}


def _open(name: int, directory: int) -> int | None:
    """The segment, if it is a plain file."""
    try:
        file = os.open(f"{name:020d}.log", _FLAGS, dir_fd=directory)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    return file


def _unlink(name: int, directory: int | None) -> None:
    try:
        os.unlink(f"{name:020d}.log", dir_fd=directory)
    except OSError:
        return  # a directory, or gone: it is never read again
