"""Statements of a session's transaction that are sent while the server still works on those before.

For what asks much at once, and often: a statement costs no wait, and a fraction of what the ORM takes for it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Dialect, TextClause
from sqlalchemy.dialects.postgresql import psycopg as driver
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

_DIALECT: Dialect = driver.dialect()  # type: ignore[no-untyped-call]  # it has no annotations


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server has yet to send: only within the pipeline, and once."""

    _cursor: psycopg.Cursor[Any]

    def all(self) -> list[Any]:
        """The rows, as named tuples."""
        return self._cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Pipeline:
    _connection: psycopg.Connection[Any]

    def ask(self, statement: TextClause, values: Mapping[str, Any]) -> Answer:
        """Send a statement that answers rows, whose columns have different names."""
        cursor = self._connection.cursor(row_factory=namedtuple_row)
        return Answer(cursor.execute(_sql(statement), values))


def send(session: Session, statement: TextClause, values: Mapping[str, Any]) -> None:
    """Have a statement done that answers nothing, in a pipeline or without one, for a fraction of what the ORM takes.

    Raises:
        sqlalchemy.exc.DBAPIError: what goes wrong with it, or with an earlier one of a pipeline.
    """
    connection = _driver(session)
    with _translated("a statement"):
        connection.execute(_sql(statement), values)


@contextmanager
def pipelined(session: Session) -> Iterator[Pipeline]:
    """All statements of the session are sent so until the end, where those are waited for that nobody has.

    Raises:
        sqlalchemy.exc.DBAPIError: what goes wrong with one, at a later one or at the end.
    """
    connection = _driver(session)
    with _translated("a pipeline"), connection.pipeline():
        yield Pipeline(connection)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Errors of statements that SQLAlchemy has not sent, or has not waited for."""
    try:
        yield
    except psycopg.Error as error:
        raise DBAPIError.instance(what, None, error, psycopg.Error, hide_parameters=True) from error


def _driver(session: Session) -> psycopg.Connection[Any]:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


@lru_cache(maxsize=256)
def _sql(statement: TextClause) -> bytes:
    """With the placeholders of the driver."""
    return str(statement.compile(dialect=_DIALECT)).encode()
