"""One line per step on the terminal, with the time that it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepError(RuntimeError):
    """A step of the launcher could not be done; the message says why and what to do."""


class Step:
    """What a step in progress may say: the note that its line ends with."""

    def __init__(self) -> None:
        self.note = ""


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Print `title`, and its outcome and duration when the block ends."""
    started = time.monotonic()
    current = Step()
    try:
        yield current
    except BaseException:
        _line("failed", title, time.monotonic() - started, "")
        raise
    _line("ok", title, time.monotonic() - started, current.note)


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _line(outcome: str, title: str, seconds: float, note: str) -> None:
    say(f"  {outcome:6} {title:34} {seconds:6.1f} s  {note}".rstrip())
