"""Users of the queue sets: they queue work and ask for its end, in a process of their own as the platform's API is."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Protocol

from api.db import Database
from scheduler.simulator.trace import Trace
from tests.bench.queue_database import PostgresWriter, QueueWriter

_Asked = tuple[Sequence[str], Sequence[str]]  # uids to queue, and to end
_READY_S = 60.0


class Users(Protocol):
    def begin(self, at: datetime) -> None:
        """The trace's time begins. To be called once, before anything is asked."""

    def ask(self, queued: Sequence[str], ended: Sequence[str]) -> None: ...

    def wait(self, timeout_s: float) -> None:
        """Until something that was asked has been written, or so long."""


@dataclass(slots=True)
class Inline:
    """For what is in memory: everything is written at once."""

    writer: QueueWriter

    def begin(self, at: datetime) -> None:
        self.writer.begun = at

    def ask(self, queued: Sequence[str], ended: Sequence[str]) -> None:
        self.writer.queue(queued)
        self.writer.end(ended)

    def wait(self, timeout_s: float) -> None:
        time.sleep(timeout_s)


@dataclass(slots=True)
class Beside:
    connection: Connection

    def begin(self, at: datetime) -> None:
        self.connection.send(at)

    def ask(self, queued: Sequence[str], ended: Sequence[str]) -> None:
        if queued or ended:
            self.connection.send((queued, ended))

    def wait(self, timeout_s: float) -> None:
        """
        Raises:
            EOFError: the other process has failed.
        """
        if self.connection.poll(timeout_s):
            while self.connection.poll():
                self.connection.recv()


@contextmanager
def beside(url: str, trace: Trace) -> Iterator[Users]:
    """Users who write to that database."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, url, trace), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_READY_S):
            raise TimeoutError("the users' process does not begin")
        ours.recv()
        yield Beside(ours)
    finally:
        ours.close()
        process.join(_READY_S)


def _serve(connection: Connection, url: str, trace: Trace) -> None:
    database = Database(url)
    writer = PostgresWriter(database, trace)
    connection.send(None)
    try:
        writer.begun = connection.recv()
        while True:
            queued, ended = _all_of(connection)
            if queued:
                writer.queue(queued)
            if ended:
                writer.end(ended)
            connection.send(None)
    except (EOFError, BrokenPipeError):
        database.close()


def _all_of(connection: Connection) -> _Asked:
    """All that has come up meanwhile: one transaction for as much as there is."""
    queued, ended = map(list, connection.recv())
    while connection.poll():
        more_queued, more_ended = connection.recv()
        queued += more_queued
        ended += more_ended
    return queued, ended
