"""The elements of an array, one after another in one container: given by the host, each a process tree of its own.

What the host gives is a line for each element in a file that grows; what became of it is told in another one.
"""

from __future__ import annotations

import os
import resource

from .files import Paths, now_ms
from .output import Output
from .plain_json import dumps, loads
from .supervisor import Ended, Supervisor

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.002, 0.1
_READ_BYTES = 65_536
_MEMORY_EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")  # control groups 2 and 1
EXITED, TIMED_OUT, OUT_OF_MEMORY = "exited", "timed_out", "out_of_memory"
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


class Given:
    """The elements that the host has given, in their order."""

    def __init__(self, path: str) -> None:
        self._path, self._place = path, 0
        self._ahead: list[dict[str, object]] = []
        self.over = False

    def next(self) -> dict[str, object] | None:
        """None: there is none now, and if it is `over` none will come."""
        if not self._ahead:
            self._read()
        return self._ahead.pop(0) if self._ahead else None

    def _read(self) -> None:
        """Whole lines alone: the host may be writing the last one."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._place)
                content = file.read(_READ_BYTES)
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            document = loads(line.decode())
            if document.get("over"):
                self.over = True
            else:
                self._ahead.append(document)


class Told:
    """What became of them, for the host."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def tell(self, **document: object) -> None:
        os.write(self._file, dumps(document).encode() + b"\n")


def run_elements(
    paths: Paths,
    supervisor: Supervisor,
    output: Output,
    command: list[str],
    environment: dict[str, str],
    timeout_s: float | None,
) -> str:
    """Run what the host gives until there is no more, or the end is asked for. What went wrong, in words, or nothing.

    Of an element that was running when the end was asked for nothing is told: it is to be tried again.
    """
    given, told = Given(paths.given), Told(paths.told)
    limits = [(which, resource.getrlimit(which)) for which in _LIMITS]
    supervisor.adopt()
    while (element := _wait(given, supervisor)) is not None:
        started_at_ms, log_from, kills = now_ms(), output.position, _memory_kills()
        told.tell(place=element["place"], started_at_ms=started_at_ms, log_from=log_from)
        _restore(limits)  # an element may have lowered them: it runs as this user
        own = {"TASK_INDEX": str(element["index"]), "ATTEMPT": str(element["number"])}
        ended = supervisor.run(command, {**environment, **own}, timeout_s)
        cleared = supervisor.clear()
        if supervisor.notice is None:
            told.tell(
                place=element["place"],
                end=_end_of(ended, kills),
                exit_code=ended.code,
                signal=ended.signal,
                started_at_ms=started_at_ms,
                ended_at_ms=now_ms(),
                log_from=log_from,
                log_to=output.position,
            )
        if not cleared:
            return "processes that an element left could not be ended"
    return ""


def _wait(given: Given, supervisor: Supervisor) -> dict[str, object] | None:
    """The next element; None: no more is to run."""
    wait_s = _FIRST_WAIT_S
    while supervisor.notice is None:
        element = given.next()
        if element is not None or given.over:
            return element
        supervisor.idle(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
    return None


def _end_of(ended: Ended, kills: int) -> str:
    if ended.timed_out:
        return TIMED_OUT
    return OUT_OF_MEMORY if ended.code != 0 and _memory_kills() > kills else EXITED


def _memory_kills() -> int:
    """How often the kernel has ended something in this container for its memory limit, where that can be seen."""
    for path in _MEMORY_EVENTS:
        try:
            with open(path, encoding="ascii") as file:
                counts = dict(line.split() for line in file)
            return int(counts["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def _restore(limits: list[tuple[int, tuple[int, int]]]) -> None:
    for which, wanted in limits:
        if resource.getrlimit(which) != wanted:
            try:
                resource.setrlimit(which, wanted)
            except (OSError, ValueError):
                pass  # a hard limit that was lowered stays so: it was the tenant's own doing
