"""The output of all nodes of a task as it comes: each is followed by a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from remotegpu.client import Client
from remotegpu.models import LogRecord, Task

_WAITING = 1000  # records that are not printed yet; then the threads wait
_WHOLE = 65_536  # characters after which a line is written although it goes on

FIRST = 0
"""The node that speaks for the task."""


@dataclass(frozen=True, slots=True)
class _Done:
    error: Exception | None = None


@dataclass
class NodesOutput:
    """`ranks`: the first of them tells of the task, and the others are followed once an attempt has begun."""

    client: Client
    task_id: str
    ranks: Sequence[int]
    attempt: int | None = None
    position: int = 0
    _items: queue.Queue[tuple[int, LogRecord] | Task | _Done] = field(default_factory=lambda: queue.Queue(_WAITING))

    def follow(self, on_change: Callable[[Task], None] | None = None) -> Iterator[tuple[int, LogRecord]]:
        """Each record with its node, until all have ended. Raises: what following one of them did."""
        first, *others = self.ranks
        self._begin(first, self._items.put)
        running = 1
        while running:
            item = self._items.get()
            if isinstance(item, _Done):
                if item.error is not None:
                    raise item.error
                running -= 1
            elif isinstance(item, Task):
                if on_change is not None:
                    on_change(item)
                while others and item.attempts:
                    self._begin(others.pop(0), None)
                    running += 1
            else:
                yield item

    def read(self) -> Iterator[tuple[int, LogRecord]]:
        """What there is, node by node."""
        for rank in self.ranks:
            for record in self.client.tasks.logs(self.task_id, attempt=self.attempt, rank=rank, position=self.position):
                yield rank, record

    def _begin(self, rank: int, on_change: Callable[[Task], None] | None) -> None:
        threading.Thread(target=self._run, args=(rank, on_change), daemon=True, name=f"node-{rank}").start()

    def _run(self, rank: int, on_change: Callable[[Task], None] | None) -> None:
        try:
            for batch in self.client.tasks.follow(
                self.task_id, attempt=self.attempt, rank=rank, position=self.position, on_change=on_change
            ):
                for record in batch.records:
                    self._items.put((rank, record))
            self._items.put(_Done())
        except Exception as error:
            self._items.put(_Done(error))


@dataclass
class NodeLines:
    """Whole lines of the nodes after the first, with `[node 1] ` in front: a part of one waits for its end."""

    _begun: dict[tuple[int, str], LogRecord] = field(default_factory=dict)

    def take(self, rank: int, record: LogRecord) -> Iterator[LogRecord]:
        """What can be printed now."""
        if rank == FIRST or record.text is None:
            yield record
            return
        key = (rank, record.stream or "stdout")
        before = self._begun.pop(key, None)
        text = (before.text or "" if before is not None else "") + record.text
        whole, newline, rest = text.rpartition("\n")
        if len(rest) > _WHOLE:
            whole, newline, rest = text, "\n", ""
        if newline:
            yield _said(rank, record, whole)
        if rest:
            self._begun[key] = LogRecord(record.position, record.at, record.stream, rest)

    def rest(self) -> Iterator[LogRecord]:
        """Lines that nobody ended."""
        for (rank, _), record in self._begun.items():
            yield _said(rank, record, record.text or "")
        self._begun.clear()


def _said(rank: int, record: LogRecord, text: str) -> LogRecord:
    lines = "".join(f"[node {rank}] {line}\n" for line in text.split("\n"))
    return LogRecord(record.position, record.at, record.stream, lines)
