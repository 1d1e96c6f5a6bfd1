"""The daemon's state in SQLite: leases, clock, meter and spool, in one file so that they change together."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
create table if not exists clock (boot_id text primary key, server_minus_boot real not null);
create table if not exists leases (
  allocation_uid text primary key, generation integer not null, lease text not null, run_until_ms integer not null,
  -- active -> ending -> ended; rows of ended leases stay for a time, so that older generations are refused
  state text not null check (state in ('active', 'ending', 'ended')),
  network text, ended_at_ms integer, exit_code integer
);
create table if not exists runs (
  container_id text not null, started_at text not null, boot_id text not null, allocation_uid text not null,
  generation integer not null, started_ms integer not null, billed_to_ms integer not null,
  finished_ms integer, primary key (container_id, started_at)
);
-- of tasks' runs: up to when their setup was free
create table if not exists free_setups (
  container_id text not null, started_at text not null, to_ms integer not null, primary key (container_id, started_at)
);
create table if not exists sequences (boot_id text primary key, next integer not null);
create table if not exists windows (
  boot_id text not null, sequence integer not null, window text not null, primary key (boot_id, sequence)
);
-- why leases were ended here, until the platform knows
create table if not exists endings (allocation_uid text primary key, generation integer not null, detail text not null);
-- volumes over their limit, with what they held when they were mounted again (null: not yet)
create table if not exists overruns (volume text primary key, bytes integer);
-- one row: the addresses of the platform's hosts, as it last told them
create table if not exists peers (version text not null, addresses text not null);
"""
_BUSY_S = 10.0

Row = tuple[Any, ...]  # Any: SQLite's columns


class Store:
    """One connection, one writer at a time. What is committed survives a `kill -9`."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        self._lock = threading.RLock()
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = normal")
        self._connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")

    def execute(self, statement: str, *values: object) -> int:
        """Run one statement; the number of rows it changed."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def all(self, statement: str, *values: object) -> list[Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def one(self, statement: str, *values: object) -> Row | None:
        rows = self.all(statement, *values)
        return rows[0] if rows else None

    def close(self) -> None:
        with self._lock:
            self._connection.close()
