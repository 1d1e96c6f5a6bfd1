"""Recordings of the scheduler's decisions as files: gzip, the oldest deleted as new ones begin."""

import gzip
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from api.clock import utc_now

log = logging.getLogger(__name__)

SUFFIX = ".jsonl.gz"
_BYTES = 64 * 2**20  # of text; compressed about a tenth of that
_KEPT = 8
_FLUSH_S = 5.0  # so much may be missing after a crash
_RETRY_S = 600.0


@dataclass(slots=True)
class RecordingFiles:
    """Implements `scheduler.recording.Lines`. A disk that is full costs the recording, never a decision."""

    directory: Path
    most_bytes: int = _BYTES
    kept: int = _KEPT
    clock: Callable[[], datetime] = utc_now
    _file: TextIO | None = None
    _written: int = 0
    _flushed_at: float = 0.0
    _failed_at: float | None = None

    @property
    def wants_begin(self) -> bool:
        if self._failed_at is not None:
            return time.monotonic() >= self._failed_at + _RETRY_S
        return self._file is None or self._written >= self.most_bytes

    def begin(self) -> None:
        self.close()
        self._failed_at, self._written = None, 0
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = recordings(self.directory)
            for old in before[: max(0, len(before) - self.kept + 1)]:
                old.unlink()
            path = self.directory / f"{self.clock():%Y%m%dT%H%M%S.%f}{SUFFIX}"
            self._file = gzip.open(path, "xt", encoding="utf-8")  # noqa: SIM115 - it stays open
        except OSError as error:
            self._give_up(error)

    def write(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line + "\n")
            self._written += len(line) + 1
            if time.monotonic() >= self._flushed_at + _FLUSH_S:
                self._file.flush()
                self._flushed_at = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                log.warning("the end of a recording was not written: %s", error)

    def _give_up(self, error: OSError) -> None:
        log.error("decisions are not recorded, tried again in %.0f s: %s", _RETRY_S, error)
        self.close()
        self._failed_at = time.monotonic()


def recordings(directory: Path) -> list[Path]:
    """From the oldest to the newest."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def read_lines(path: Path) -> Iterator[str]:
    """The whole lines of a recording: of one that a crash has cut off, up to there.

    Raises:
        OSError: it can't be read, or is no gzip file.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        try:
            for line in file:
                if line.endswith("\n"):
                    yield line
        except (EOFError, zlib.error):
            return
