"""Chunks of output from hosts: each becomes an object, then a row, in order and once.

The row says that the object is whole, so nobody reads what was not written to its end.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.clock import utc_now
from api.db import Database
from api.errors import Conflict, NotFound, Unprocessable
from api.logs.chunks import Chunk, decompressed
from api.logs.retention import delete_dropped
from api.logs.runs import SMALL_BYTES
from api.logs.tables import FEW, MANY, Log, LogChunk
from api.object_store import ObjectStore
from api.settings import Settings
from api.tasks.tables import TaskAttempt
from scheduler.log_records import BadRecordsError, unpack_run

CHANNEL = "logs"

_DROPPED_AT_ONCE = 256
_NOTIFY = text("select pg_notify(:channel, :attempt)")


@dataclass(frozen=True, slots=True)
class Source:
    """Whose output it is, as a host names it. `rank` is the host's place in the attempt's gang."""

    host_id: int
    allocation_uid: UUID
    generation: int
    rank: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a host sends. With `last` no more follows, and the body may be empty."""

    position: int
    length: int
    body: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """`expected` is the position of what comes next; `whole`: nothing does."""

    expected: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    """`dropped`: how many old chunks are, for this one or before."""

    dropped: int
    to_merge: bool


class NotExpectedError(Conflict):
    """It does not begin where the log ends; the problem document says where that is."""

    def __init__(self, standing: Standing) -> None:
        detail = "the log is whole" if standing.whole else f"the next byte is expected at {standing.expected}"
        errors = [{"expected": standing.expected, "whole": standing.whole}]
        super().__init__(f"The chunk can't be taken: {detail}.", code="not_expected", errors=errors)


def standing(session: Session, source: Source) -> Standing:
    """
    Raises:
        NotFound: this host has no such attempt.
    """
    attempt_id, _ = _attempt(session, source)
    return _standing(session.get(Log, (attempt_id, source.rank)))


def take(database: Database, objects: ObjectStore, settings: Settings, source: Source, incoming: Incoming) -> bool:
    """Keep a chunk. Sent again, it changes nothing. Whether there is something to merge now.

    Raises:
        NotFound: this host has no such attempt.
        NotExpectedError, Unprocessable
        ObjectStoreUnavailable
    """
    content_bytes = _checked(incoming)
    with database.session() as session:
        attempt_id, attempt_uid = _attempt(session, source)
        if _is_there(session, session.get(Log, (attempt_id, source.rank)), attempt_id, source.rank, incoming):
            return False
    chunk = Chunk(attempt_uid, source.rank, incoming.position, incoming.length)
    if incoming.body:
        objects.put(chunk.key, incoming.body)

    def record(session: Session) -> NotExpectedError | _Kept:
        return _record(session, attempt_id, source.rank, incoming, content_bytes, settings)

    outcome = database.transact(record)
    if isinstance(outcome, NotExpectedError):
        if incoming.body:
            objects.delete(chunk.key)  # another one was faster, and covers other bytes: this one gets no row any more
        raise outcome
    if outcome.dropped:
        delete_dropped(database, objects)
    return outcome.to_merge


def announce(session: Session, attempt_id: int) -> None:
    """Once this transaction is done, tell who follows the output of an attempt that there is something new."""
    session.execute(_NOTIFY, {"channel": CHANNEL, "attempt": str(attempt_id)})


def _attempt(session: Session, source: Source) -> tuple[int, UUID]:
    """Its id and uid, if it runs or ran on this host at this rank."""
    found = session.execute(
        select(TaskAttempt.id, TaskAttempt.uid)
        .join(Allocation, Allocation.id == TaskAttempt.allocation_id)
        .where(Allocation.uid == source.allocation_uid, TaskAttempt.generation == source.generation)
        .where(Allocation.host_ids[source.rank + 1] == source.host_id)
    ).one_or_none()
    if found is None:
        raise NotFound("This host has no such attempt.")
    return found.id, found.uid


def _checked(incoming: Incoming) -> int:
    """The size of the records."""
    try:
        content = decompressed(incoming.body) if incoming.body else b""
        records = unpack_run(content, incoming.position)
    except BadRecordsError as error:
        raise Unprocessable(str(error), code="bad_records") from error
    length = records[-1].end - incoming.position if records else 0
    if length != incoming.length:
        raise Unprocessable(f"The records cover {length} bytes, not {incoming.length}.", code="bad_records")
    if not records and not incoming.last:
        raise Unprocessable("Only the last chunk may be empty.", code="bad_records")
    return len(content)


def _standing(log: Log | None) -> Standing:
    return Standing(0, False) if log is None else Standing(log.position, log.is_whole)


def _is_there(session: Session, log: Log | None, attempt_id: int, rank: int, incoming: Incoming) -> bool:
    """Whether the chunk was taken before.

    Raises:
        NotExpectedError: it was not, and can't be.
    """
    if log is None or (not log.is_whole and log.position == incoming.position):
        if log is None and incoming.position:
            raise NotExpectedError(_standing(log))
        return False
    if incoming.last and not log.is_whole:
        raise NotExpectedError(_standing(log))
    if not incoming.length and log.position == incoming.position:
        return True
    row = session.get(LogChunk, (attempt_id, rank, incoming.position))
    if row is None or row.length != incoming.length:
        raise NotExpectedError(_standing(log))
    return True


def _record(
    session: Session, attempt_id: int, rank: int, incoming: Incoming, content_bytes: int, settings: Settings
) -> NotExpectedError | _Kept:
    session.execute(insert(Log).values(attempt_id=attempt_id, rank=rank).on_conflict_do_nothing())
    log = session.get_one(Log, (attempt_id, rank), with_for_update=True)
    try:
        if _is_there(session, log, attempt_id, rank, incoming):
            return _Kept(0, False)
    except NotExpectedError as error:
        return error
    if incoming.length:
        size_bytes = len(incoming.body)
        session.add(
            LogChunk(
                attempt_id=attempt_id, rank=rank, position=incoming.position, length=incoming.length,
                size_bytes=size_bytes, content_bytes=content_bytes,
            )
        )  # fmt: skip
    _count(log, incoming, content_bytes, settings)
    session.flush()
    dropped = _drop_oldest(session, log, settings.log_limit_bytes)
    announce(session, attempt_id)
    return _Kept(dropped, log.unmerged >= (FEW if log.is_whole else MANY))


def _count(log: Log, incoming: Incoming, content_bytes: int, settings: Settings) -> None:
    log.position += incoming.length
    if log.received_bytes < settings.log_head_bytes:
        log.head = log.position
    log.received_bytes += content_bytes
    log.kept_bytes += content_bytes
    log.unmerged += 0 < content_bytes < SMALL_BYTES
    log.is_whole = incoming.last
    log.at = utc_now()


def _drop_oldest(session: Session, log: Log, limit_bytes: int) -> int:
    """Keep the first part, in which it is said what runs, and of the rest the newest; how many chunks go."""
    excess = log.kept_bytes - limit_bytes
    if excess <= 0:
        return 0
    oldest = session.execute(
        select(LogChunk.position, LogChunk.content_bytes, LogChunk.length)
        .where(LogChunk.attempt_id == log.attempt_id, LogChunk.rank == log.rank, LogChunk.dropped_at.is_(None))
        .where(LogChunk.position >= log.head)
        .order_by(LogChunk.position)
        .limit(_DROPPED_AT_ONCE)
    ).all()
    dropping = []
    for position, content_bytes, length in oldest:
        if excess <= 0 or position + length == log.position:
            break
        excess -= content_bytes
        log.kept_bytes -= content_bytes
        dropping.append(position)
    session.execute(
        update(LogChunk)
        .where(LogChunk.attempt_id == log.attempt_id, LogChunk.rank == log.rank, LogChunk.position.in_(dropping))
        .values(dropped_at=func.now())
    )
    return len(dropping)
