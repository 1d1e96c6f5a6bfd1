"""Many rows in one statement: they travel as one JSON document, so that its text and its plan stay the same."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Table, TextClause, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from api.db import Base
from api.pipeline import send

Row = Mapping[str, Any]  # column values, as the JSON of a document shows them
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # it has no annotations


def table_of(entity: type[Base]) -> Table:
    table = entity.__table__
    assert isinstance(table, Table)
    return table


def document(rows: Sequence[Row]) -> str:
    """The value of `:rows` in a statement with a `recordset`. Moments and UUIDs are written as text."""
    return json.dumps(rows, default=str)


def recordset(**columns: str) -> str:
    """A FROM item named `r` with these columns and SQL types, made of the parameter `:rows`."""
    return (
        f"json_to_recordset(cast(:rows as json)) as r ({', '.join(f'{name} {kind}' for name, kind in columns.items())})"
    )


def insert_rows(session: Session, entity: type[Base], rows: Sequence[Row]) -> None:
    """Insert rows that all name the same columns; the rest have the server's defaults."""
    if rows:
        send(session, insert_statement(entity, tuple(rows[0])), {"rows": document(rows)})


@lru_cache(maxsize=256)
def insert_statement(entity: type[Base], columns: tuple[str, ...], tail: str = "") -> TextClause:
    """`insert into ... select ... from` a recordset, and `tail`, such as a RETURNING clause."""
    names = ", ".join(columns)
    typed = recordset(**types_of(entity, columns))
    return text(f"insert into {table_of(entity).name} ({names}) select {names} from {typed} {tail}")


def update_rows(session: Session, entity: type[Base], keys: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Update rows by their `keys`, of which the first are numbers; all name the same columns."""
    if rows:
        columns = tuple(name for name in rows[0] if name not in keys)
        values = {"rows": document(rows), "keys": [row[keys[0]] for row in rows]}
        send(session, _update_statement(entity, keys, columns), values)


def update_sql(entity: type[Base], keys: tuple[str, ...], columns: tuple[str, ...], **more: str) -> str:
    """`update ... t set` these columns of the rows that have the `keys` of a recordset's. `more`: columns besides.

    The values of the first key are given once more, as `:keys`: by them rows are looked up in an index, even where the
    statement was planned while its table was small, and joining all of it seemed to be less work.
    """
    typed = recordset(**types_of(entity, (*keys, *columns)), **more)
    values = ", ".join(f"{name} = r.{name}" for name in columns)
    same = " and ".join(f"t.{name} = r.{name}" for name in keys)
    return f"update {table_of(entity).name} t set {values} from {typed} where {same} and t.{keys[0]} = any(:keys)"


@lru_cache(maxsize=256)
def _update_statement(entity: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> TextClause:
    return text(update_sql(entity, keys, columns))


def types_of(entity: type[Base], columns: Sequence[str]) -> dict[str, str]:
    table = table_of(entity)
    return {name: str(table.c[name].type.compile(dialect=_DIALECT)) for name in columns}
