"""The database: engine, sessions, and the one place that retries serialisation failures and deadlocks."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from psycopg import errors as pg
from sqlalchemy import BigInteger, Executable, MetaData, Row, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import DateTime

_RETRIED = (pg.SerializationFailure, pg.DeadlockDetected)
_ATTEMPTS = 5
# Of connections that only read: each statement is planned once, then run again and again.
_READING = "-c default_transaction_read_only=on -c plan_cache_mode=force_generic_plan -c timezone=UTC"

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


class Database:
    """One per process. Sessions are short: no transaction is open while something outside the database is awaited.

    Errors do not repeat a statement's values: they end in logs, and hashes of passwords and tokens are among them.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.engine = create_engine(url, pool_size=pool_size, max_overflow=10, pool_pre_ping=True, hide_parameters=True)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._reading = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            connect_args={"options": _READING, "prepare_threshold": 0},
        )

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

    def read(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[*tuple[Any, ...]]]:
        """The rows of one statement that changes nothing, in one round trip: no transaction, no ping before.

        For what every request asks. Make `statement` once, with `bindparam`s, so that its plan is kept. A connection
        that was lost is replaced, and the statement runs again.
        """
        try:
            return self._read(statement, values)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return self._read(statement, values)

    def _read(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[*tuple[Any, ...]]]:
        with self._reading.connect() as connection:
            return connection.execute(statement, values).all()

    def close(self) -> None:
        self.engine.dispose()
        self._reading.dispose()
