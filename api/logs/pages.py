"""A part of an output at a time, as far as it has come in."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from api.db import Database
from api.errors import NotFound
from api.logs.attempts import NoAttempt, Wanted, find_log
from api.logs.elements import find_element
from api.logs.entries import Entry
from api.logs.reading import Extent, LogRef, chunks_from, cut, extent, read_chunk
from api.object_store import ObjectStore
from api.principal import Principal
from scheduler.log_records import MAX_POSITION

_CHUNKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Span:
    """What may be read of a log: from `position`, and before `end` where that is known."""

    log: LogRef
    known: Extent
    position: int
    end: int | None = None
    until: int = MAX_POSITION


@dataclass(frozen=True, slots=True)
class Page:
    entries: Sequence[Entry]
    end: int
    ended: bool


async def span_of_task(database: Database, principal: Principal, wanted: Wanted, position: int) -> Span | NoAttempt:
    """
    Raises:
        NotFound: no such task, attempt or rank, or not for this principal to see.
    """
    log = await find_log(database, principal, wanted)
    return log if isinstance(log, NoAttempt) else Span(log, await extent(database, log), position)


async def span_of_element(
    database: Database, principal: Principal, task_uid: UUID, index: int, *, attempt: int | None, position: int
) -> Span:
    """Of its last try; with an `attempt`, of the try there that has `position` or begins after it.

    Raises:
        NotFound: no such task or element, it has not started there, or not for this principal to see.
    """
    element = await find_element(database, principal, task_uid, index)
    number = element.at(attempt, position)
    if number is None:
        raise NotFound("There is no such element that has started.")
    part = element.parts[number]
    known = await extent(database, part.log)
    if part.end is None:  # what has come in is no other element's, unless this one's end is known by now
        part = (await find_element(database, principal, task_uid, index)).parts[number]
    until = known.position if part.end is None else part.end
    return Span(part.log, known, max(position, part.begin), part.end, until)


async def read_page(database: Database, objects: ObjectStore, span: Span, *, limit: int) -> Page:
    """About `limit` bytes of output.

    Raises:
        ObjectStoreUnavailable
    """
    entries: list[Entry] = []
    end, position = span.position, span.position
    stop = min(position + limit, span.until)
    while end < stop and (chunks := await chunks_from(database, span.log, end, most=_CHUNKS_AT_ONCE)):
        for chunk in chunks:
            found = await read_chunk(database, objects, span.log, chunk, end, span.until) if end < stop else None
            if found is None:
                break
            entries += found
            end = entries[-1].end
    entries = cut(entries, limit)
    end = entries[-1].end if entries else position
    known = span.known
    return Page(entries, end, (span.end is not None and end >= span.end) or (known.ended and end >= known.position))
