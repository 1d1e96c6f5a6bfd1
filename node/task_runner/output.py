"""The command's output on disk: records in segments, of which at most so many bytes wait to be taken away.

A segment is named by the position of its first byte; the host deletes those that it has shipped. If nobody does, the
oldest go, and a mark in their place says how many bytes are missing: so the command never waits for a reader.
"""

from __future__ import annotations

import os
import struct

STDOUT, STDERR, DROPPED = 1, 2, 3
RECORD = struct.Struct(">BBHQQI")  # version, stream, reserved, time in ms, position of the first byte, length of data
_COUNT = struct.Struct(">Q")
_VERSION = 1
SEGMENT_BYTES = 4 * 2**20
RING_BYTES = 64 * 2**20
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def record(stream: int, at_ms: int, position: int, data: bytes) -> bytes:
    return RECORD.pack(_VERSION, stream, 0, at_ms, position, len(data)) + data


def dropped(at_ms: int, position: int, count: int) -> bytes:
    """A mark: at this position so many bytes are missing."""
    return record(DROPPED, at_ms, position, _COUNT.pack(count))


class _Segment:
    def __init__(self, directory: str, first: int) -> None:
        self.path = f"{directory}/{first:020d}.log"
        self.first = self.end = first
        self.size = 0
        self.is_mark = False


class Output:
    """Of one container: both streams share the positions."""

    def __init__(self, directory: str, *, segment_bytes: int = SEGMENT_BYTES, ring_bytes: int = RING_BYTES) -> None:
        self._directory, self._segment_bytes, self._ring_bytes = directory, segment_bytes, ring_bytes
        os.makedirs(directory, exist_ok=True)
        self.position = 0
        self._written = 0  # up to here all is in a segment, or marked as dropped in one
        self._file: int | None = None
        self._segments: list[_Segment] = []  # the last one is being written

    def write(self, stream: int, data: bytes, at_ms: int) -> None:
        """Keep what a stream said. What a full disk does not take counts as dropped."""
        if not data:
            return
        position, self.position = self.position, self.position + len(data)
        try:
            if position > self._written:
                self._append(dropped(at_ms, self._written, position - self._written), position)
            self._append(record(stream, at_ms, position, data), self.position)
        except OSError:
            self._close()

    def close(self, at_ms: int) -> None:
        if self.position > self._written:
            try:
                self._append(dropped(at_ms, self._written, self.position - self._written), self.position)
            except OSError:
                pass  # the disk is still full: the host counts bytes by the status file too
        self._close()

    def _append(self, content: bytes, end: int) -> None:
        if self._file is None or self._segments[-1].size + len(content) > self._segment_bytes:
            self._begin()
        assert self._file is not None
        segment = self._segments[-1]
        done = os.write(self._file, content)
        if done != len(content):  # a part of a record would make the rest of the segment unreadable
            os.ftruncate(self._file, segment.size)
            raise OSError("the disk is full")
        segment.size += done
        segment.end = self._written = end

    def _begin(self) -> None:
        self._close()
        if self._segments and self._segments[-1].size == 0:
            self._segments.pop()  # the disk was full when it was begun
        self._make_room()
        segment = _Segment(self._directory, self._written)
        self._file = os.open(segment.path, _FLAGS, 0o644)
        self._segments.append(segment)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _make_room(self) -> None:
        """Drop the oldest segments that nobody took, until another one fits."""
        there = set(os.listdir(self._directory))
        self._segments = [each for each in self._segments if os.path.basename(each.path) in there]
        while len(self._segments) > 1 and self._waiting() > self._ring_bytes - self._segment_bytes:
            if self._segments[0].is_mark:
                self._drop(self._segments.pop(1), into=self._segments[0])
            else:
                self._drop(self._segments[0], into=self._segments[0])

    def _waiting(self) -> int:
        return sum(segment.size for segment in self._segments)

    def _drop(self, old: _Segment, *, into: _Segment) -> None:
        into.end, into.is_mark = old.end, True
        content = dropped(0, into.first, into.end - into.first)
        temporary = f"{self._directory}/mark.new"
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, into.path)
        into.size = len(content)
        if old is not into:
            try:
                os.unlink(old.path)
            except FileNotFoundError:
                pass  # the host took it in between
