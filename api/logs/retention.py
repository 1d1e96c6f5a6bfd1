"""What is no longer kept goes: first the object, then the row that names it, so that nothing is forgotten."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from api.db import Database
from api.logs.chunks import Chunk
from api.logs.tables import LogChunk, LogLeftover
from api.object_store import ObjectStore
from api.tasks.tables import TaskAttempt

AT_ONCE = 64

_Id = tuple[int, int, int]  # of a row: attempt, rank, position
_ID = LogChunk.attempt_id, LogChunk.rank, LogChunk.position


def delete_dropped(database: Database, objects: ObjectStore) -> int:
    """Delete chunks that were dropped, of whatever log, the longest gone first; how many. Waits for the store.

    Two at once do the same twice, and neither minds.

    Raises:
        ObjectStoreUnavailable
    """
    with database.session() as session:
        dropped = _dropped(session)
    for _, chunk in dropped:
        objects.delete(chunk.key)
    ids = [identity for identity, _ in dropped]
    rows = tuple_(*_ID)
    database.transact(lambda session: session.execute(delete(LogChunk).where(rows.in_(ids))))
    return len(dropped)


def delete_leftovers(database: Database, objects: ObjectStore) -> int:
    """Delete objects that no chunk names, as above.

    Raises:
        ObjectStoreUnavailable
    """
    query = select(LogLeftover.key).where(LogLeftover.due_at <= func.now()).order_by(LogLeftover.due_at).limit(AT_ONCE)
    with database.session() as session:
        keys = session.scalars(query).all()
    for key in keys:
        objects.delete(key)
    if keys:
        database.transact(lambda session: session.execute(delete(LogLeftover).where(LogLeftover.key.in_(keys))))
    return len(keys)


def _dropped(session: Session) -> Sequence[tuple[_Id, Chunk]]:
    rows = session.execute(
        select(
            LogChunk.attempt_id, LogChunk.rank, LogChunk.position, LogChunk.length, LogChunk.merged_uid, TaskAttempt.uid
        )
        .join(TaskAttempt, TaskAttempt.id == LogChunk.attempt_id)
        .where(LogChunk.dropped_at.is_not(None))
        .order_by(LogChunk.dropped_at)
        .limit(AT_ONCE)
    )
    return [
        ((attempt_id, rank, position), Chunk(uid, rank, position, length, merged_uid))
        for attempt_id, rank, position, length, merged_uid, uid in rows
    ]
