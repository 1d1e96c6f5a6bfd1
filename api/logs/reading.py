"""Reading output from the store: which chunks there are from a position on, and what is in them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import aliased

from api.clock import utc_now
from api.db import Database
from api.logs.chunks import Chunk, decompressed
from api.logs.entries import Entry, dropped, entries_of
from api.logs.tables import Log, LogChunk
from api.object_store import NoSuchObject, ObjectStore
from api.reading import Statement
from api.tasks.tables import TaskAttempt
from scheduler.log_records import MAX_POSITION, since, unpack_run, until
from scheduler.states import AttemptEnd, AttemptState

LATE = timedelta(seconds=60)
"""How long after an attempt's end, and after its last chunk, output is still expected from a host that lives."""

_before = aliased(LogChunk)
_SAME = LogChunk.attempt_id == bindparam("attempt"), LogChunk.rank == bindparam("rank")
_FIRST = (
    select(func.max(_before.position))
    .where(_before.attempt_id == bindparam("attempt"), _before.rank == bindparam("rank"))
    .where(_before.position <= bindparam("position"), _before.dropped_at.is_(None))
)
_CHUNKS = Statement(
    select(LogChunk.position, LogChunk.length, LogChunk.merged_uid)
    .where(*_SAME, LogChunk.dropped_at.is_(None))
    .where(LogChunk.position >= func.coalesce(_FIRST.scalar_subquery(), 0))
    .order_by(LogChunk.position)
    .limit(bindparam("most"))
)
_STANDING = Statement(
    select(TaskAttempt.state, TaskAttempt.end, TaskAttempt.ended_at, Log.position, Log.is_whole, Log.at)
    .outerjoin(Log, (Log.attempt_id == TaskAttempt.id) & (Log.rank == bindparam("rank")))
    .where(TaskAttempt.id == bindparam("attempt"))
)


@dataclass(frozen=True, slots=True)
class LogRef:
    """The output of one node of one attempt. `number` is the attempt's among those of its task."""

    attempt_id: int
    attempt_uid: UUID
    number: int
    rank: int


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a log has come in. `ended`: the attempt has, and no more output comes."""

    position: int
    ended: bool


async def extent(database: Database, log: LogRef) -> Extent:
    rows = await database.read(_STANDING, {"attempt": log.attempt_id, "rank": log.rank})
    state, end, ended_at, position, is_whole, at = rows[0]
    if state != AttemptState.ENDED:
        return Extent(position or 0, False)
    return Extent(position or 0, bool(is_whole) or end == AttemptEnd.HOST_LOST or _is_late(ended_at, at))


async def chunks_from(database: Database, log: LogRef, position: int, *, most: int) -> list[Chunk]:
    """Those that hold `position` or come after it, in order."""
    values = {"attempt": log.attempt_id, "rank": log.rank, "position": position, "most": most + 1}
    found = [Chunk(log.attempt_uid, log.rank, *row) for row in await database.read(_CHUNKS, values)]
    return [chunk for chunk in found if chunk.end > position][:most]


def entries_from(objects: ObjectStore, chunk: Chunk, position: int, limit: int = MAX_POSITION) -> list[Entry]:
    """What is in a chunk from `position` on, and what is missing before it; nothing from `limit` on. Waits for the
    store.

    Raises:
        NoSuchObject: it is part of another chunk by now, was dropped, or is lost.
        ObjectStoreUnavailable
    """
    start = min(max(position, chunk.position), limit)
    content = decompressed(objects.get(chunk.key))
    records = (part for record in unpack_run(content, chunk.position) if (part := until(record, limit)))
    return [*_gap(position, start), *entries_of(part for record in records if (part := since(record, start)))]


def lost(chunk: Chunk, position: int, limit: int = MAX_POSITION) -> list[Entry]:
    """What there is of a chunk whose object is gone, as `entries_from` has it: that it was dropped."""
    start = min(max(position, chunk.position), limit)
    return [*_gap(position, start), *_gap(start, min(chunk.end, limit))]


def _gap(position: int, end: int) -> list[Entry]:
    return [dropped(position, end)] if position < end else []


async def is_kept(database: Database, log: LogRef, chunk: Chunk) -> bool:
    """Whether it is still a chunk of its own."""
    return chunk in await chunks_from(database, log, chunk.position, most=1)


async def read_chunk(
    database: Database, objects: ObjectStore, log: LogRef, chunk: Chunk, position: int, limit: int = MAX_POSITION
) -> list[Entry] | None:
    """As `entries_from`, with what was lost as dropped. None: look again for what there is from `position` on.

    Raises:
        ObjectStoreUnavailable
    """
    try:
        return await asyncio.to_thread(entries_from, objects, chunk, position, limit)
    except NoSuchObject:
        return lost(chunk, position, limit) if await is_kept(database, log, chunk) else None


def cut(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """The first of them: about `limit` bytes of output, more if they can't be cut there."""
    for index, entry in enumerate(entries):
        if entry.clean and entry.end - entries[0].position >= limit:
            return list(entries[: index + 1])
    return list(entries)


def _is_late(ended_at: datetime | None, at: datetime | None) -> bool:
    return all(moment is None or utc_now() - moment > LATE for moment in (ended_at, at))
