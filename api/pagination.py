"""Lists: keyset pagination with an opaque cursor."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Response
from pydantic import BaseModel
from sqlalchemy import ColumnElement, DateTime, Select, Text, bindparam, cast, func, literal_column
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.db import Database
from api.errors import BadRequest

Item = TypeVar("Item")

_MICROSECONDS = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'  # of connections that only read, whose time zone is UTC

LimitQuery = Annotated[int, Query(ge=1, le=200, description="How many items at most")]
CursorQuery = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next_cursor: str | None


def encode_cursor(key: int) -> str:
    return base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    try:
        key = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise BadRequest("The cursor is not one that this API gave out; start from the first page.") from error
    if not -(2**63) <= key < 2**63:
        raise BadRequest("The cursor is not one that this API gave out; start from the first page.")
    return key


def page_rows(
    session: Session,
    query: Select[*tuple[Any, ...]],
    *,
    key: InstrumentedAttribute[int] | ColumnElement[int],
    cursor: str | None,
    limit: int,
) -> tuple[list[Any], str | None]:
    """Rows of `query`, newest first by the unique integer `key`, and the cursor of the next page."""
    if cursor is not None:
        query = query.where(key < decode_cursor(cursor))
    rows = list(session.execute(query.add_columns(key.label("page_key")).order_by(key.desc()).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, encode_cursor(rows[-1].page_key) if more else None


@dataclass(frozen=True, slots=True)
class JsonList:
    """A list whose rows leave the database as the JSON that the API answers; no object is built of them here.

    `query` selects a column for each field of `item`, by the field's name and in its order, and `key` is its unique
    integer. Each of the `filters` is a condition with a `bindparam` of the filter's name. The statement of each set of
    filters is made once.

    Raises:
        TypeError: the columns are not the fields.
    """

    item: type[BaseModel]
    query: Select[*tuple[Any, ...]]
    key: InstrumentedAttribute[int]
    filters: Mapping[str, ColumnElement[bool]]
    _statements: dict[frozenset[str], Select[*tuple[Any, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.query.selected_columns.keys()) != list(self.item.model_fields):
            raise TypeError(f"the columns are not the fields of {self.item.__name__}")

    def page(self, database: Database, filters: Mapping[str, Any], *, cursor: str | None, limit: int) -> Response:
        """One page of the rows that pass all `filters` named, newest first: the JSON of `Page[item]`."""
        values = {**filters, "limit": limit + 1}
        if cursor is not None:
            values["before"] = decode_cursor(cursor)
        rows = database.read(self._statement(frozenset(values)), values)
        following = f'"{encode_cursor(rows[limit - 1][1])}"' if len(rows) > limit else "null"
        items = ",".join([row[0] for row in rows[:limit]])
        return Response(f'{{"items":[{items}],"next_cursor":{following}}}', media_type="application/json")

    def _statement(self, names: frozenset[str]) -> Select[*tuple[Any, ...]]:
        if names not in self._statements:
            self._statements[names] = self._compose(names)
        return self._statements[names]

    def _compose(self, names: frozenset[str]) -> Select[*tuple[Any, ...]]:
        columns = chain.from_iterable(
            (literal_column(f"'{name}'"), _as_answered(column)) for name, column in self.query.selected_columns.items()
        )
        query = self.query.with_only_columns(cast(func.json_build_object(*columns), Text), self.key)
        for name in sorted(names - {"limit", "before"}):
            query = query.where(self.filters[name])
        if "before" in names:
            query = query.where(self.key < bindparam("before"))
        return query.order_by(self.key.desc()).limit(bindparam("limit"))


def _as_answered(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Times as pydantic writes them, so that a list and a single answer never differ by a character."""
    if not isinstance(column.type, DateTime):
        return column
    return func.replace(func.to_char(column, _MICROSECONDS), ".000000Z", "Z")
