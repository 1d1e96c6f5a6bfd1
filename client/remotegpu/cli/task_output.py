"""What commands print of tasks: their output as it was written, their state and why they wait, how they ended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from rich.markup import escape

from remotegpu.cli.node_output import FIRST, NodeLines, NodesOutput
from remotegpu.cli.session import errors
from remotegpu.cli.telling import waiting
from remotegpu.cli.units import moment, now_here
from remotegpu.client import Client
from remotegpu.models import Attempt, Element, LogRecord, Task, TaskDetail

TIMED_OUT = 124  # as of timeout(1)
INTERRUPTED = 130  # as a shell tells of SIGINT
_SIGNALLED = 128


@dataclass
class LogOutput:
    """Writes output byte by byte as it was written, errors to stderr: progress bars draw over themselves as ever.

    `only`: one of the two streams. `timestamps`: in front of each line.
    """

    only: str | None = None
    timestamps: bool = False
    _mid_line: dict[str, bool] = field(default_factory=dict)

    def write(self, record: LogRecord) -> None:
        if record.dropped is not None:
            self.say(f"[{record.dropped} bytes dropped]")
        elif record.text and self.only in (None, record.stream):
            stream = record.stream or "stdout"
            text = "".join(self._stamped(record, stream)) if self.timestamps else record.text
            self._mid_line[stream] = not record.text.endswith("\n")
            target = _stderr() if stream == "stderr" else _stdout()
            target.write(text.encode())
            target.flush()

    def write_nodes(self, records: Iterable[tuple[int, LogRecord]]) -> None:
        """Records with the nodes that wrote them: of all but the first, whole lines that say which it was."""
        lines = NodeLines()
        for rank, record in records:
            for each in lines.take(rank, record):
                if rank != FIRST:
                    self._end_line(each.stream or "stdout")
                self.write(each)
        for each in lines.rest():
            self._end_line(each.stream or "stdout")
            self.write(each)

    def say(self, line: str) -> None:
        """A line of ours, on stderr, by itself."""
        if self._mid_line.get("stderr") or (self._mid_line.get("stdout") and sys.stdout.isatty()):
            _stderr().write(b"\n")
            self._mid_line.clear()
        _stderr().write(line.encode() + b"\n")
        _stderr().flush()

    def _end_line(self, stream: str) -> None:
        """A line that the first node has not ended ends where another one's begins."""
        if self._mid_line.pop(stream, False):
            (_stderr() if stream == "stderr" else _stdout()).write(b"\n")

    def _stamped(self, record: LogRecord, stream: str) -> Iterator[str]:
        at = record.at.astimezone().isoformat(timespec="milliseconds") if record.at is not None else "-"
        within = self._mid_line.get(stream, False)
        for line in (record.text or "").splitlines(keepends=True):
            yield line if within else f"{at} {line}"
            within = not line.endswith("\n")


def _stdout() -> BinaryIO:
    sys.stdout.flush()
    return sys.stdout.buffer


def _stderr() -> BinaryIO:
    sys.stderr.flush()
    return sys.stderr.buffer


def note(task: Task) -> str:
    """Why it waits and until when, or how far it is, or why it is in its state."""
    now = now_here()
    if task.wait is not None:
        return f"{task.detail} {waiting(task.wait, now=now)}".strip()
    if task.due_at is not None:
        return f"{task.detail} It is queued again at {moment(task.due_at, now=now)}.".strip()
    if task.state == "starting" and task.phase:
        return task.phase.replace("_", " ")
    if task.state == "running" and task.progress is not None:
        far = f"{task.progress.fraction:.0%}" if task.progress.fraction is not None else ""
        return ", ".join(part for part in (far, task.progress.line) if part)
    return task.detail


def described(task: Task) -> str:
    """Its name, state and note in a line."""
    noted = note(task)
    return f"{task.name}: {task.state.replace('_', ' ')}" + (f", {noted}" if noted else "")


def ended(attempt: Attempt) -> str:
    """How an attempt ended: `exited, exit code 3`."""
    if attempt.end is None:
        return attempt.phase
    parts = [attempt.end.replace("_", " ")]
    if attempt.exit_code is not None:
        parts.append(f"exit code {attempt.exit_code}")
    if attempt.signal is not None:
        parts.append(_signal_name(attempt.signal))
    parts += [said for said in (attempt.limit_hit, attempt.detail, attempt.notice) if said]
    return ", ".join(parts)


def ended_element(element: Element) -> str:
    """How the last try of an element ended, as `ended` has it."""
    if element.end is None:
        return ""
    parts = [element.end.replace("_", " ")]
    if element.exit_code is not None:
        parts.append(f"exit code {element.exit_code}")
    if element.signal is not None:
        parts.append(_signal_name(element.signal))
    return ", ".join(parts)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_code(task: TaskDetail) -> int:
    """What a command that ran the task exits with: the code of its last attempt's command, where there is one."""
    if task.state == "succeeded":
        return 0
    if task.state == "timed_out":
        return TIMED_OUT
    last = task.attempt_list[-1] if task.attempt_list else None
    if task.state == "failed" and last is not None:
        if last.signal is not None:
            return _SIGNALLED + last.signal
        return last.exit_code or 1
    return 1


def follow_to_end(client: Client, task: Task, output: LogOutput) -> TaskDetail:
    """Print its output, of all its nodes, and its states until it has ended."""
    nodes = NodesOutput(client, task.id, range(task.nodes))
    output.write_nodes(nodes.follow(lambda now: output.say(described(now))))
    return client.tasks.get(task.id)


@contextmanager
def leaving_it_running(tasks: list[Task]) -> Iterator[None]:
    """Ctrl-C ends the command, not the tasks."""
    try:
        yield
    except KeyboardInterrupt:
        for task in tasks:
            errors.print(
                escape(
                    f"\n{task.name} goes on.\n  Follow it: remotegpu task logs -f {task.id}\n"
                    f"  Cancel it: remotegpu task cancel {task.id}"
                ),
                soft_wrap=True,
            )
        sys.exit(INTERRUPTED)
