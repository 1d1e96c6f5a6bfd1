"""What a task's container says of itself, read as input from outside: bounded, no link followed, nothing believed
that could do more than harm the task itself.
"""

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from scheduler.host_protocol import TaskProgress

_MOST_BYTES = 65_536
_MOST_TEXT = 500  # characters
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not hold us up


class RunnerPhase(StrEnum):
    SETTING_UP = "setting_up"
    RUNNING = "running"
    ENDED = "ended"


class RunnerEnd(StrEnum):
    EXITED = "exited"
    TIMED_OUT = "timed_out"
    SETUP_FAILED = "setup_failed"


def _text(value: object) -> str:
    """Readable, and short; PostgreSQL takes no NUL, and nothing takes a half of a surrogate pair."""
    text = value if isinstance(value, str) else ""
    return text[:_MOST_TEXT].replace("\0", "").encode(errors="replace").decode()


Text = Annotated[str, BeforeValidator(_text)]
Moment = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """`status.json`. Times are milliseconds of the container's wall clock, which is this machine's."""

    phase: RunnerPhase
    running_at_ms: Moment | None = None
    ended_at_ms: Moment | None = None
    end: RunnerEnd | None = None
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    detail: Text = ""
    notice: Text = ""

    @property
    def ended(self) -> bool:
        return self.phase == RunnerPhase.ENDED and self.end is not None

    @property
    def succeeded(self) -> bool:
        return self.ended and self.end == RunnerEnd.EXITED and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class _Progress:
    fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    line: Text = ""
    at_ms: Moment = 0


_STATUS, _PROGRESS = TypeAdapter(RunnerStatus), TypeAdapter(_Progress)


def read_status(path: Path) -> RunnerStatus | None:
    """None: there is none, or none that can be used."""
    content = _content(path)
    try:
        return _STATUS.validate_json(content) if content is not None else None
    except ValidationError:
        return None


def read_progress(path: Path) -> TaskProgress | None:
    content = _content(path)
    try:
        found = _PROGRESS.validate_json(content) if content is not None else None
    except ValidationError:
        return None
    return TaskProgress(found.fraction, found.line, found.at_ms) if found else None


def _content(path: Path) -> bytes | None:
    """Of a plain file that is not too large."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = os.read(descriptor, _MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    return content if len(content) <= _MOST_BYTES else None
