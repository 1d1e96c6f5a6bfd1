"""What a job writes, as Ray gives it: plain text, both streams as they came, of the newest attempt."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from fastapi import WebSocket, WebSocketDisconnect
from psycopg import Error as ReadFailure
from sqlalchemy import bindparam, select

from api.db import Database
from api.errors import ApiError, NotFound
from api.logs.attempts import NoAttempt, Wanted, find_log
from api.logs.connection import AGAIN, DONE
from api.logs.following import Following
from api.logs.reading import Extent, LogRef, chunks_from, extent, read_chunk
from api.object_store import ObjectStore
from api.principal import Principal
from api.reading import Statement
from api.tasks.tables import Task
from scheduler.states import TASK, TaskState

MAX_BYTES = 8 * 2**20
LOOK_AGAIN_S = 1.0  # for a job's next attempt
PATIENCE = 60  # tries: Ray's client can't go on where it was, so the connection outlives what passes
_EARLIER = "[earlier output is left out here; `remotegpu task logs` has all that is kept]\n"
_CHUNKS_AT_ONCE = 8
_LAST_WORDS_S, _LOOK_S = 2.0, 0.05
_STATE = Statement(select(Task.state).where(Task.uid == bindparam("task")))

_log = logging.getLogger(__name__)


async def newest(database: Database, objects: ObjectStore, principal: Principal, task_uid: UUID) -> str:
    """The last `MAX_BYTES` of what the newest attempt has written.

    Raises:
        NotFound: there is no such task.
        ObjectStoreUnavailable
    """
    log = await find_log(database, principal, Wanted(task_uid, None, 0))
    if isinstance(log, NoAttempt):
        return ""
    end = (await _extent(database, log, task_uid)).position
    position = max(0, end - MAX_BYTES)
    parts = [_EARLIER] if position else []
    while position < end and (chunks := await chunks_from(database, log, position, most=_CHUNKS_AT_ONCE)):
        for chunk in chunks:
            entries = await read_chunk(database, objects, log, chunk, position)
            if entries is None:
                break
            parts += _texts(",".join(entry.json for entry in entries))
            position = chunk.end
    return "".join(parts)


async def _extent(database: Database, log: LogRef, task_uid: UUID) -> Extent:
    """With the end of the job's last words, which come a moment after the word that it has ended."""
    deadline_s = time.monotonic() + _LAST_WORDS_S
    while True:
        over = await _is_over(database, task_uid)
        found = await extent(database, log)
        if found.ended or not over or time.monotonic() > deadline_s:
            return found
        await asyncio.sleep(_LOOK_S)


async def tail(
    websocket: WebSocket, database: Database, following: Following, principal: Principal, task_uid: UUID
) -> int | None:
    """Send what the newest attempt has written, and all that the job still writes, also in later attempts. Returns
    with what the connection is to be closed then, None if it is."""
    failures = 0
    place = _Place()
    while failures < PATIENCE:
        try:
            async for text in _all(database, following, principal, task_uid, place):
                await websocket.send_text(text)
                failures = 0
            return DONE
        except WebSocketDisconnect:
            return None
        except NotFound:
            return DONE
        except (ApiError, ReadFailure) as error:
            _log.warning("following output was interrupted: %s", error)
            failures += 1
            await asyncio.sleep(LOOK_AGAIN_S)
    return AGAIN


class _Place:
    """Up to where output was sent: `position` of the attempt `number`, and whether that was all of it."""

    def __init__(self) -> None:
        self.number = 0
        self.position = 0
        self.whole = True


async def _all(
    database: Database, following: Following, principal: Principal, task_uid: UUID, place: _Place
) -> AsyncIterator[str]:
    while True:
        over = await _is_over(database, task_uid)  # before the attempt: when it is over, there is none after that
        log = await _next(database, principal, task_uid, place)
        if log is None and over:
            return
        if log is None:
            await asyncio.sleep(LOOK_AGAIN_S)
            continue
        async with aclosing(following.frames(log, place.position)) as frames:
            async for frame in frames:
                yield "".join(_texts(frame.json))
                place.position = frame.end
        place.whole = True


async def _next(database: Database, principal: Principal, task_uid: UUID, place: _Place) -> LogRef | None:
    """The log to go on with: the same, or the next attempt's, at first the newest's. None: there is none yet."""
    newest = await find_log(database, principal, Wanted(task_uid, None, 0))
    if isinstance(newest, NoAttempt) or (place.whole and newest.number == place.number):
        return None
    if place.whole:
        place.number = place.number + 1 if place.number else newest.number
        place.position, place.whole = 0, False
    if newest.number == place.number:
        return newest
    log = await find_log(database, principal, Wanted(task_uid, place.number, 0))
    return None if isinstance(log, NoAttempt) else log


async def _is_over(database: Database, task_uid: UUID) -> bool:
    rows = await database.read(_STATE, {"task": task_uid})
    return not rows or not TASK[TaskState(rows[0][0])]


def _texts(documents: str) -> Iterator[str]:
    """Of entries as JSON, separated by commas."""
    records: list[dict[str, Any]] = json.loads(f"[{documents}]")  # Any: JSON
    for record in records:
        yield record["text"] if "text" in record else f"\n[{record['dropped']} bytes of output were dropped]\n"
