"""Lists: keyset pagination with an opaque cursor."""

import base64
import binascii
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.errors import BadRequest

Item = TypeVar("Item")

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
