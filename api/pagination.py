"""Lists: keyset pagination with an opaque cursor."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from fastapi import Query, Response
from pydantic import BaseModel
from sqlalchemy import ColumnElement, DateTime, Row, Select, Text, bindparam, cast, func, literal_column
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.db import Database
from api.errors import BadRequest
from api.reading import Statement

Item = TypeVar("Item")

_MICROSECONDS = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'  # of connections that only read, whose time zone is UTC
_MAX_FRAGMENTS = 20_000  # of about a kilobyte each

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


def page_of(
    database: Database,
    query: Select[*tuple[Any, ...]],
    view: Callable[[Row[Any]], Item],
    *,
    key: InstrumentedAttribute[int] | ColumnElement[int],
    cursor: str | None,
    limit: int,
) -> Page[Item]:
    """As `page_rows` has them, each row in `view`."""

    def work(session: Session) -> Page[Item]:
        rows, following = page_rows(session, query, key=key, cursor=cursor, limit=limit)
        return Page(items=[view(row) for row in rows], next_cursor=following)

    return database.transact(work)


class _Fragments:
    """The JSON of rows by their versions. Where there is no more room, what was kept longest ago goes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], bytes] = {}

    def find(self, versions: Sequence[tuple[Any, ...]]) -> list[bytes] | None:
        """In the order asked; None if any is missing."""
        try:
            return [self._kept[version] for version in versions]
        except KeyError:
            return None

    def keep(self, version: tuple[Any, ...], fragment: bytes) -> None:
        self._kept.pop(version, None)  # to the end
        self._kept[version] = fragment
        if len(self._kept) > _MAX_FRAGMENTS:
            del self._kept[next(iter(self._kept))]


@dataclass(frozen=True, slots=True)
class JsonList:
    """A list whose rows leave the database as the JSON that the API answers; no object is built of them here.

    `query` selects a column for each field of `item`, by the field's name and in its order, and `key` is its unique
    integer. Each of the `filters` is a condition with a `bindparam` of the filter's name. The statements of each set of
    filters are made once.

    Most of the work is writing rows as JSON, and most rows are as they were at the request before. So the database is
    asked for the page's keys and `version`s first, and only where one is new for the page itself. `version` is columns
    that, all the same, promise the same JSON.

    Raises:
        TypeError: the columns are not the fields.
    """

    item: type[BaseModel]
    query: Select[*tuple[Any, ...]]
    key: InstrumentedAttribute[int]
    version: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]]
    filters: Mapping[str, ColumnElement[bool]]
    _statements: dict[frozenset[str], tuple[Statement, Statement]] = field(default_factory=dict)
    # A row's version means something within one database.
    _fragments: WeakKeyDictionary[Database, _Fragments] = field(default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        if list(self.query.selected_columns.keys()) != list(self.item.model_fields):
            raise TypeError(f"the columns are not the fields of {self.item.__name__}")

    async def page(self, database: Database, filters: Mapping[str, Any], *, cursor: str | None, limit: int) -> Response:
        """One page of the rows that pass all `filters` named, newest first: the JSON of `Page[item]`."""
        values = {**filters, "limit": limit + 1}
        if cursor is not None:
            values["before"] = decode_cursor(cursor)
        versions_of, rows_of = self._statements_for(frozenset(values))
        fragments = self._fragments.setdefault(database, _Fragments())
        versions = await database.read(versions_of, values)
        items = fragments.find(versions[:limit])
        if items is None:
            # It may have changed in between: each row comes with the version that its JSON is of.
            rows = await database.read(rows_of, values)
            versions, items = [row[1:] for row in rows], [row[0].encode() for row in rows[:limit]]
            for version, item in zip(versions, items, strict=False):
                fragments.keep(version, item)
        following = f'"{encode_cursor(versions[limit - 1][0])}"' if len(versions) > limit else "null"
        body = b'{"items":[%b],"next_cursor":%b}' % (b",".join(items), following.encode())
        return Response(body, media_type="application/json")

    def _statements_for(self, names: frozenset[str]) -> tuple[Statement, Statement]:
        if names not in self._statements:
            version = (self.key, *self.version)
            self._statements[names] = (
                Statement(self._compose(names, version)),
                Statement(self._compose(names, (self._json(), *version))),
            )
        return self._statements[names]

    def _json(self) -> ColumnElement[str]:
        columns = chain.from_iterable(
            (literal_column(f"'{name}'"), as_answered(column)) for name, column in self.query.selected_columns.items()
        )
        return cast(func.json_build_object(*columns), Text)

    def _compose(self, names: frozenset[str], columns: Sequence[Any]) -> Select[*tuple[Any, ...]]:
        query = self.query.with_only_columns(*columns)
        for name in sorted(names - {"limit", "before"}):
            query = query.where(self.filters[name])
        if "before" in names:
            query = query.where(self.key < bindparam("before"))
        return query.order_by(self.key.desc()).limit(bindparam("limit"))


def as_answered(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Times as pydantic writes them, so that a list and a single answer never differ by a character."""
    if not isinstance(column.type, DateTime):
        return column
    return func.replace(func.to_char(column, _MICROSECONDS), ".000000Z", "Z")
