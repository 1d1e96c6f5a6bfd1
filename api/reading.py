"""What every request asks of the database, without a thread: libpq on the event loop, statements prepared once.

psycopg's own asyncio connections do the same at three times the cost per statement: they are made for cursors,
transactions and statements that nobody knew before, and none of those are here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from psycopg import OperationalError, errors, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Dialect, Executable
from sqlalchemy.dialects.postgresql import psycopg as driver

Rows = Sequence[tuple[Any, ...]]

_CONNECTIONS = 10  # at most, per event loop
_TIMEOUT_S = 30  # of one read, and of the wait for a connection
# Each statement is planned once, then run again and again.
_OPTIONS = (
    "-c default_transaction_read_only=on -c plan_cache_mode=force_generic_plan -c timezone=UTC "
    f"-c statement_timeout={_TIMEOUT_S}s"
)
# The server ends what takes too long; a server whose machine is gone is noticed so. Nothing here needs a timer.
_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": _TIMEOUT_S * 1000}
_DIALECT: Dialect = driver.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call] # as it is there
_numbers = count()


def conninfo_of(url: URL) -> str:
    """libpq's connection string for connections that only read."""
    _, arguments = _DIALECT.create_connect_args(url)
    options = f"{arguments.pop('options', '')} {_OPTIONS}"
    return make_conninfo(**{**_ALIVE, **arguments, "options": options, "client_encoding": "utf8"})


class Statement:
    """A statement that changes nothing, compiled once; each read gives the values of its `bindparam`s."""

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        self.sql = str(compiled).encode()
        self.name = f"read_{next(_numbers)}".encode()
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._constants: Mapping[str, Any] = compiled.params

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """All parameters in the statement's order: of `values`, or those that it was written with."""
        constants = self._constants
        return [values[name] if name in values else constants[name] for name in self._names]


class ReadPool:
    """The connections of one event loop; the one used last is used next."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._idle: list[_Connection] = []
        self._free = asyncio.Semaphore(_CONNECTIONS)

    async def read(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        """The rows. A statement whose connection turns out to be lost runs again, at last on a new one.

        Raises:
            psycopg.OperationalError: the database does not answer, or not in time.
        """
        arguments = statement.arguments(values)
        await self._take()
        try:
            while self._idle:
                connection = self._idle.pop()
                try:
                    return await self._run(connection, statement, arguments)
                except OperationalError:
                    if not connection.lost:
                        raise
            connection = _Connection(await asyncio.to_thread(_connect, self._conninfo))
            return await self._run(connection, statement, arguments)
        finally:
            self._free.release()

    async def _take(self) -> None:
        if not self._free.locked():  # as nearly always: a timer would cost as much as the rest
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._free.acquire()
        except TimeoutError as error:
            raise OperationalError(f"no connection was free within {_TIMEOUT_S} s") from error

    async def _run(self, connection: "_Connection", statement: Statement, arguments: list[Any]) -> Rows:
        try:
            return await connection.run(statement, arguments)
        finally:
            if connection.idle:
                self._idle.append(connection)
            else:  # lost, or given up with its answer still to come
                connection.close()


def _connect(conninfo: str) -> pq.abc.PGconn:
    connection = pq.PGconn.connect(conninfo.encode())
    if connection.status != pq.ConnStatus.OK:
        raise OperationalError(connection.get_error_message())
    return connection


def _format(argument: Any) -> PyFormat:
    """Text fits whatever type the server takes a parameter for, but libpq writes bytes as text for SQL, with quotes."""
    return PyFormat.BINARY if isinstance(argument, bytes) else PyFormat.TEXT


class _Connection:
    """One statement at a time. libpq keeps its default of blocking writes: a statement and its values are few bytes,
    which always fit into the socket's buffer when nothing else is under way."""

    def __init__(self, connection: pq.abc.PGconn) -> None:
        self._connection = connection
        self._adapter = Transformer()
        self._prepared: set[bytes] = set()
        self._results: list[pq.abc.PGresult] = []
        self._answered: asyncio.Future[None] | None = None
        self._socket = connection.socket  # of a lost connection libpq no longer tells it
        self.lost = False
        asyncio.get_running_loop().add_reader(self._socket, self._arrived)

    @property
    def idle(self) -> bool:
        return not self.lost and self._connection.transaction_status == pq.TransactionStatus.IDLE

    async def run(self, statement: Statement, arguments: list[Any]) -> Rows:
        """Raises psycopg's errors, OperationalError if the connection is lost."""
        if self.lost:
            raise OperationalError("the connection was lost")
        if statement.name not in self._prepared:
            self._connection.send_prepare(statement.name, statement.sql)
            await self._answer()
            self._prepared.add(statement.name)
        adapter = self._adapter
        values = adapter.dump_sequence(arguments, [_format(argument) for argument in arguments])
        self._connection.send_query_prepared(statement.name, values, adapter.formats, pq.Format.BINARY)
        result = await self._answer()
        adapter.set_pgresult(result)
        return adapter.load_rows(0, result.ntuples, tuple)

    async def _answer(self) -> pq.abc.PGresult:
        self._results.clear()
        self._answered = asyncio.get_running_loop().create_future()
        await self._answered
        result = self._results[-1]
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise errors.error_from_result(result)
        return result

    def _arrived(self) -> None:
        """Called by the loop: the server has sent something, or is gone. The latter is noticed while idle too."""
        try:
            self._connection.consume_input()
            while not self._connection.is_busy():
                result = self._connection.get_result()
                if result is None:
                    return self._settle(None)
                self._results.append(result)
        except OperationalError as error:
            self.close()
            self._settle(error)

    def _settle(self, error: OperationalError | None) -> None:
        answered, self._answered = self._answered, None
        if answered is None or answered.done():  # nobody waits, or gave up
            return
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    def close(self) -> None:
        """Idempotent."""
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().remove_reader(self._socket)
            self._connection.finish()
