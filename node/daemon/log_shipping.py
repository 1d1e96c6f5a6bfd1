"""Output on its way from this host to the platform, all attempts' by a few threads in turn.

What waits lies on disk, in a ring that the task's runner bounds: while the platform is away nothing is kept in memory.
Where a log goes on the platform knows, so a daemon that starts again asks it by sending what it finds.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import zstandard

from node.daemon.log_segments import Batch, Segments
from node.platform import AttemptOverError, LogPositionError, PlatformUnavailableError

log = logging.getLogger(__name__)

EVERY_S = 0.3
_THREADS = 4
_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 10.0
_LEVEL = 1
_STOP_S = 2.0


class Platform(Protocol):
    """As `node.platform.Platform`."""

    def log(
        self, allocation_uid: str, generation: int, *, rank: int, position: int, length: int, records: bytes, last: bool
    ) -> None: ...


HeldFrom = Callable[[], int | None]
"""The position from which output is not to be shipped yet, of what was written before the call; None: there is none."""


@dataclass(frozen=True, slots=True)
class LogSource:
    """The output of an attempt on this host; its segments are in `log` below `directory`."""

    allocation_uid: str
    generation: int
    rank: int
    directory: Path


@dataclass(slots=True, eq=False)
class _Log:
    source: LogSource
    segments: Segments
    held_from: HeldFrom | None = None
    position: int | None = None  # of what comes next; None until it was looked for
    then: Callable[[], None] | None = None  # set: nobody writes any more
    nobody_keeps_it: bool = False
    failures: int = 0
    due_s: float = 0.0
    busy: bool = field(default=False)  # a thread has its turn


class LogShipping:
    """Safe to use from many threads."""

    def __init__(self, platform: Platform, *, threads: int = _THREADS) -> None:
        self._platform = platform
        self._logs: dict[tuple[str, int], _Log] = {}
        self._queue: list[tuple[float, int, _Log]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"logs-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let go; the next daemon goes on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline_s = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def attend(self, source: LogSource, held_from: HeldFrom | None = None) -> None:
        """Take its output away while it is written. Idempotent. Nothing is held back once it is finished."""
        with self._changed:
            found = self._known(source)
            found.held_from = held_from or found.held_from

    def soon(self, allocation_uid: str, generation: int) -> None:
        """What there is of an attempt's output goes out at once."""
        with self._changed:
            found = self._logs.get((allocation_uid, generation))
            if found is not None:
                self._enqueue(found, 0.0)

    def finish(self, source: LogSource, then: Callable[[], None]) -> None:
        """Nothing more is written: `then` is called once all is shipped, or nobody keeps it. Idempotent."""
        with self._changed:
            found = self._known(source)
            found.then = then
            self._enqueue(found, 0.0)

    def waiting(self) -> int:
        """Logs that are not finished."""
        with self._changed:
            return len(self._logs)

    def _known(self, source: LogSource) -> _Log:
        key = source.allocation_uid, source.generation
        found = self._logs.get(key)
        if found is None:
            found = self._logs[key] = _Log(source, Segments(source.directory))
            self._enqueue(found, 0.0)
        return found

    def _enqueue(self, one: _Log, after_s: float) -> None:
        """Its next turn is then; an earlier entry of the queue no longer counts."""
        one.due_s = time.monotonic() + after_s
        if not one.busy:
            heapq.heappush(self._queue, (one.due_s, next(self._numbers), one))
            self._changed.notify()

    def _run(self) -> None:
        while (one := self._next()) is not None:
            asked_s = one.due_s
            after_s = self._turn(one)
            with self._changed:
                one.busy = False
                if after_s is None:
                    self._logs.pop((one.source.allocation_uid, one.source.generation), None)
                else:
                    self._enqueue(one, 0.0 if one.due_s != asked_s else after_s)

    def _next(self) -> _Log | None:
        """The log whose turn it is; None: the end."""
        with self._changed:
            while not self._stopped:
                now_s = time.monotonic()
                if self._queue and self._queue[0][0] <= now_s:
                    due_s, _, one = heapq.heappop(self._queue)
                    if one.busy or due_s != one.due_s:
                        continue
                    one.busy = True
                    return one
                self._changed.wait(self._queue[0][0] - now_s if self._queue else None)
            return None

    def _turn(self, one: _Log) -> float | None:
        """Ship a chunk: after how many seconds the log has its next turn, None if it is finished."""
        try:
            after_s = self._ship(one)
        except LogPositionError as error:
            if error.expected == one.position and not error.whole:
                return self._later(one, error)  # it says what it was sent
            one.position, one.nobody_keeps_it = error.expected, error.whole
            one.segments.reset()
            return 0.0
        except AttemptOverError:
            one.nobody_keeps_it = True
            return 0.0
        except (PlatformUnavailableError, OSError) as error:
            return self._later(one, error)
        except Exception as error:
            log.exception("shipping the output of allocation %s failed", one.source.allocation_uid)
            return self._later(one, error)
        one.failures = 0
        return after_s

    def _later(self, one: _Log, error: Exception) -> float:
        one.segments.reset()
        one.failures += 1
        if one.failures == 1:
            log.warning("the output of allocation %s waits: %s", one.source.allocation_uid, error)
        return float(min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** min(one.failures - 1, 8)))

    def _ship(self, one: _Log) -> float | None:
        then = one.then
        if one.nobody_keeps_it:
            return EVERY_S if then is None else _finished(one, then)
        if one.position is None:
            one.position = one.segments.begin()
        batch = one.segments.read(one.position, final=then is not None)
        held = one.held_from() if one.held_from is not None and then is None else None
        if held is not None:
            batch = batch.before(held)
        last = then is not None and not batch.full
        if batch.records or last:
            self._send(one.source, batch, last=last)
            one.position = batch.end
            one.segments.forget(batch.end)
        if last and then is not None:
            return _finished(one, then)
        return 0.0 if batch.full else EVERY_S

    def _send(self, source: LogSource, batch: Batch, *, last: bool) -> None:
        content = batch.content()
        self._platform.log(
            source.allocation_uid,
            source.generation,
            rank=source.rank,
            position=batch.position,
            length=batch.end - batch.position,
            records=zstandard.ZstdCompressor(level=_LEVEL).compress(content) if content else b"",
            last=last,
        )


def _finished(one: _Log, then: Callable[[], None]) -> float | None:
    """No more turns."""
    one.segments.reset()
    then()
    return None
