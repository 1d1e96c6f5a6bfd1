"""The database: engine, sessions, and the one place that retries serialisation failures and deadlocks."""

import asyncio
import select
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from sqlalchemy import BigInteger, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import DateTime

from api.reading import ReadPool, Rows, Statement, conninfo_of

_RETRIED = (pg.SerializationFailure, pg.DeadlockDetected)
_ATTEMPTS = 5

Result = TypeVar("Result")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


BigId = BigInteger
Moment = DateTime(timezone=True)


def _check_whether_lost(connection: psycopg.Connection[Any], *_: object) -> None:
    """Of one that is taken out of the pool. A server that goes ends its connections, and says so: there is something to
    be read then, where otherwise nothing is. Only then it is asked: that would be a round trip for each transaction.

    Raises:
        sqlalchemy.exc.DisconnectionError: the pool makes another connection.
    """
    try:
        if _has_input(connection.fileno()):
            connection.execute("")
            connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError("the server has ended this connection") from error


def _has_input(socket: int) -> bool:
    polled = select.poll()
    polled.register(socket, select.POLLIN)
    return bool(polled.poll(0))


class Database:
    """One per process. Sessions are short: no transaction is open while something outside the database is awaited.

    Errors do not repeat a statement's values: they end in logs, and hashes of passwords and tokens are among them.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.engine = create_engine(url, pool_size=pool_size, max_overflow=10, hide_parameters=True)
        event.listen(self.engine, "checkout", _check_whether_lost)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._read_pools: dict[asyncio.AbstractEventLoop, ReadPool] = {}

    def session(self) -> Session:
        return self._sessions()

    def transact(self, work: Callable[[Session], Result]) -> Result:
        """Run `work` in one transaction, committed before this returns; a deadlock repeats it."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._sessions.begin() as session:
                    return work(session)
            except DBAPIError as error:
                if not isinstance(error.orig, _RETRIED) or attempt == _ATTEMPTS:
                    raise
                time.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")

    async def read(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        """The rows of one statement that changes nothing, in one round trip: no transaction, no ping, no thread.

        For what every request asks. `ReadPool.read` says what happens to lost connections.
        """
        loop = asyncio.get_running_loop()
        pool = self._read_pools.get(loop) or self._add_pool(loop)
        return await pool.read(statement, values)

    def _add_pool(self, loop: asyncio.AbstractEventLoop) -> ReadPool:
        """A server has one loop; of those before, which tests have, the connections go."""
        self._read_pools = {loop: pool for loop, pool in self._read_pools.items() if not loop.is_closed()}
        pool = self._read_pools[loop] = ReadPool(conninfo_of(self.engine.url))
        return pool

    def close(self) -> None:
        """After the event loops that read, if any."""
        self.engine.dispose()
        self._read_pools.clear()
