"""Many small chunks of a log become one: a task that writes a little for weeks leaves no million objects.

The new object is there before its row, and the old ones are there for a while after theirs. Rows change in one
transaction, so whoever reads finds each byte once; who knows the old rows and finds an object gone looks again. An
object that no row names is written down before it is there, or with the row that goes: whatever is killed when, it is
deleted later. Its name has an id that no other try has, so nothing that is deleted late can be somebody else's.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import Insert, Row, delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from api.db import Database
from api.errors import ApiError
from api.ids import new_uid
from api.logs.chunks import Chunk, compressed, decompressed
from api.logs.retention import delete_leftovers
from api.logs.runs import Piece, Run, runs
from api.logs.tables import FEW, TO_MERGE, Log, LogChunk, LogLeftover
from api.object_store import NoSuchObject, ObjectStore
from api.tasks.tables import TaskAttempt
from scheduler.log_records import BadRecordsError

READ_FOR = timedelta(seconds=60)
"""How long objects stay after their rows, so that those who read just now need not look again."""
MERGED_WITHIN = timedelta(hours=1)
"""After that an object that was to be a chunk is deleted; it becomes none in the second half of that time."""

_AT_ONCE = 16  # logs, and portions of leftovers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    """A log as it was looked at. `unmerged`: as many small chunks were counted."""

    attempt_id: int
    rank: int
    unmerged: int
    whole: bool
    runs: list[Run]


class Merging:
    """At most one at a time in a process; who comes meanwhile leaves it to that one, or the next."""

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database, self._objects = database, objects
        self._busy = threading.Lock()

    def run(self) -> None:
        """Merge what is due, of whatever log. Waits for the store; a failure is left to the next time."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            merge_due(self._database, self._objects)
        except ApiError as error:
            _log.warning("output is not merged now: %s", error)
        finally:
            self._busy.release()


def merge_due(database: Database, objects: ObjectStore) -> int:
    """Merge logs of many small chunks, and delete what was left over by earlier times; how many new chunks there are.

    Raises:
        ObjectStoreUnavailable
    """
    for _ in range(_AT_ONCE):
        if not delete_leftovers(database, objects):
            break
    merged = 0
    for _ in range(_AT_ONCE):
        with database.session() as session:
            due = _next(session)
        if due is None:
            break
        merged += sum(_merge(database, objects, due, run) for run in due.runs)
        database.transact(partial(_done, due))
    return merged


def _next(session: Session) -> _Due | None:
    """The log that waits longest, if any does."""
    log = session.scalars(select(Log).where(text(TO_MERGE)).order_by(Log.at).limit(1)).one_or_none()
    if log is None:
        return None
    uid = session.scalars(select(TaskAttempt.uid).where(TaskAttempt.id == log.attempt_id)).one()
    rows = session.execute(
        select(LogChunk.position, LogChunk.length, LogChunk.merged_uid, LogChunk.content_bytes)
        .where(LogChunk.attempt_id == log.attempt_id, LogChunk.rank == log.rank, LogChunk.dropped_at.is_(None))
        .order_by(LogChunk.position)
    )
    pieces = [Piece(_chunk(uid, log.rank, row), row.content_bytes) for row in rows]
    found = runs(pieces, head=log.head, whole=log.is_whole)
    return _Due(log.attempt_id, log.rank, log.unmerged, log.is_whole, found)


def _chunk(uid: UUID, rank: int, row: Row[*tuple[int, int, UUID | None, int]]) -> Chunk:
    return Chunk(uid, rank, row.position, row.length, row.merged_uid)


def _merge(database: Database, objects: ObjectStore, due: _Due, run: Run) -> bool:
    """Whether it is one chunk now: it is not if what it is made of has changed or was lost."""
    try:
        content = b"".join(decompressed(objects.get(piece.chunk.key)) for piece in run)
    except (NoSuchObject, BadRecordsError):
        return False
    first = run[0].chunk
    length = run[-1].chunk.end - first.position
    merged = Chunk(first.attempt_uid, first.rank, first.position, length, new_uid())
    database.transact(partial(_intend, merged))
    body = compressed(content)
    objects.put(merged.key, body)
    return database.transact(partial(_replace, due, run, merged, len(body)))


def _intend(merged: Chunk, session: Session) -> None:
    session.execute(_leftover([merged.key], MERGED_WITHIN))


def _replace(due: _Due, run: Run, merged: Chunk, size_bytes: int, session: Session) -> bool:
    """Rows for rows, if they are what was merged."""
    session.get_one(Log, (due.attempt_id, due.rank), with_for_update=True)
    rows = session.scalars(
        select(LogChunk)
        .where(LogChunk.attempt_id == due.attempt_id, LogChunk.rank == due.rank)
        .where(LogChunk.position.between(run[0].chunk.position, run[-1].chunk.position))
        .order_by(LogChunk.position)
    ).all()
    now = [(row.position, row.length, row.merged_uid, row.dropped_at) for row in rows]
    if now != [(piece.chunk.position, piece.chunk.length, piece.chunk.merged_uid, None) for piece in run]:
        return False
    in_time = LogLeftover.due_at > func.now() + MERGED_WITHIN / 2
    mine = delete(LogLeftover).where(LogLeftover.key == merged.key, in_time).returning(LogLeftover.key)
    if session.scalar(mine) is None:
        return False
    session.execute(_leftover([piece.chunk.key for piece in run], READ_FOR))
    first, *others = rows
    for row in others:
        session.delete(row)
    first.length, first.merged_uid, first.size_bytes = merged.length, merged.merged_uid, size_bytes
    first.content_bytes = sum(piece.content_bytes for piece in run)
    return True


def _leftover(keys: list[str], after: timedelta) -> Insert:
    return insert(LogLeftover).values([{"key": key, "due_at": func.now() + after} for key in keys])


def _done(due: _Due, session: Session) -> None:
    """What came in meanwhile stays counted; what goes on is looked at once more when it is whole."""
    left = 0 if due.whole else FEW
    session.execute(
        update(Log)
        .where(Log.attempt_id == due.attempt_id, Log.rank == due.rank, Log.unmerged >= due.unmerged)
        .values(unmerged=Log.unmerged - due.unmerged + left)
    )
