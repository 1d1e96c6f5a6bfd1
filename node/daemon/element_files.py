"""The two files by which a host and the runner of a worker speak of an array's elements.

What the host gives is its own, and the runner reads it. What the runner tells is input from outside: bounded, no link
followed, and only of what was given, each once.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from scheduler.host_protocol import ElementResult, ElementRun, ElementStart

_READ_BYTES = 2**18  # at a time
_MOST_LINE = 1024
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not hold us up
_READABLE = 0o444

Whole = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class _Line:
    """`end` is there once it has ended."""

    place: Whole
    started_at_ms: Whole
    log_from: Whole
    end: Annotated[str, Field(max_length=20)] | None = None
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    ended_at_ms: Whole = 0
    log_to: Whole = 0


_LINE = TypeAdapter(_Line)


class GivenElements:
    """What the runner is given: in a file, so that a daemon that comes back knows it too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.count = 0
        self.over = False
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))  # the daemon before this one was ended while it wrote
        for line in whole.splitlines():
            self._count(json.loads(line))

    def add(self, runs: tuple[ElementRun, ...]) -> None:
        """Those that come next; others are known. Raises: OSError."""
        self._write([{"place": each.place, "index": each.index, "number": each.number} for each in runs
                     if each.place >= self.count])  # fmt: skip

    def end(self) -> None:
        """There are no more. Raises: OSError."""
        if not self.over:
            self._write([{"over": True}])

    def _write(self, documents: list[dict[str, Any]]) -> None:
        content = "".join(f"{json.dumps(document)}\n" for document in documents).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, _READABLE)
            file.write(content)
        for document in documents:
            self._count(document)

    def _count(self, document: dict[str, Any]) -> None:
        if document.get("over"):
            self.over = True
        else:
            self.count = int(document["place"]) + 1


class ToldElements:
    """What the runner tells, read on from where it was read to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._rest = b""
        self._skipping = False
        self._seen: set[tuple[int, bool]] = set()  # place, and whether its end

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self, *, given: int) -> tuple[list[ElementStart], list[ElementResult], bool]:
        """What is new of the first `given` elements, and whether there may be more to read at once."""
        content = self._content()
        lines = (self._rest + content).split(b"\n")
        self._rest = lines.pop()
        starts: list[ElementStart] = []
        results: list[ElementResult] = []
        for line in lines:
            if self._skipping:
                self._skipping = False
                continue
            self._take(line, given, starts, results)
        if len(self._rest) > _MOST_LINE:
            self._rest, self._skipping = b"", True
        return starts, results, len(content) == _READ_BYTES

    def _take(self, line: bytes, given: int, starts: list[ElementStart], results: list[ElementResult]) -> None:
        said = _read_line(line)
        if said is None or said.place >= given or (said.place, said.end is not None) in self._seen:
            return
        self._seen.add((said.place, said.end is not None))
        if said.end is None:
            starts.append(ElementStart(said.place, said.started_at_ms, said.log_from))
            return
        results.append(
            ElementResult(
                said.place, said.end, said.exit_code, said.signal, said.started_at_ms, said.ended_at_ms,
                said.log_from, said.log_to,
            )
        )  # fmt: skip

    def _content(self) -> bytes:
        try:
            if self._file is None:
                self._file = os.open(self._path, _FLAGS)
            if stat.S_ISREG(os.fstat(self._file).st_mode):
                return os.read(self._file, _READ_BYTES)
        except OSError:
            pass  # it has told nothing yet
        return b""


def _read_line(line: bytes) -> _Line | None:
    try:
        return _LINE.validate_json(line) if len(line) <= _MOST_LINE else None
    except ValidationError:
        return None
