"""What is no longer kept goes: first the object, then the row that names it, so that nothing is forgotten."""

from collections.abc import Sequence

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session

from api.db import Database
from api.logs.chunks import Chunk
from api.logs.tables import LogChunk
from api.object_store import ObjectStore
from api.tasks.tables import TaskAttempt

AT_ONCE = 64

_Id = tuple[int, int, int]  # of a row: attempt, rank, position


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
    rows = tuple_(LogChunk.attempt_id, LogChunk.rank, LogChunk.position)
    database.transact(lambda session: session.execute(delete(LogChunk).where(rows.in_(ids))))
    return len(dropped)


def _dropped(session: Session) -> Sequence[tuple[_Id, Chunk]]:
    rows = session.execute(
        select(LogChunk.attempt_id, LogChunk.rank, LogChunk.position, LogChunk.length, TaskAttempt.uid)
        .join(TaskAttempt, TaskAttempt.id == LogChunk.attempt_id)
        .where(LogChunk.dropped_at.is_not(None))
        .order_by(LogChunk.dropped_at)
        .limit(AT_ONCE)
    )
    return [
        ((attempt_id, rank, position), Chunk(uid, rank, position, length))
        for attempt_id, rank, position, length, uid in rows
    ]
