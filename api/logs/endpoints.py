"""The output of tasks over HTTP: a part of it at a time, or followed as it comes."""

import asyncio
import json
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response, WebSocket, WebSocketDisconnect
from psycopg import Error as ReadFailure
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from api.db import Database
from api.deps import DatabaseDep, ObjectsDep, PrincipalDep
from api.errors import ApiError
from api.logs import connection
from api.logs.attempts import NoAttempt, Wanted, find_element, find_log
from api.logs.connection import AGAIN, DONE
from api.logs.entries import STREAMS, Entry
from api.logs.following import Following
from api.logs.reading import LogRef, chunks_from, cut, entries_from, extent
from api.principal import Principal
from api.problems import problems
from scheduler.log_records import MAX_POSITION

router = APIRouter(prefix="/customer/tasks/{task_id}/logs", tags=["tasks"])

LOOK_AGAIN_S = 1.0  # for the first attempt of a task that waits
_CHUNKS_AT_ONCE = 8

_log = logging.getLogger(__name__)


class LogRecordOut(BaseModel):
    """Text that was written to one stream at one time, or how many bytes were dropped."""

    position: int
    at: str | None
    stream: Literal["stdout", "stderr"] | None
    text: str | None = None
    dropped: int | None = None


class LogOut(BaseModel):
    """`attempt` is null as long as there is none. Go on reading at `next_position`, until `ended`."""

    attempt: int | None
    records: list[LogRecordOut]
    next_position: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Follower:
    database: Database
    principal: Principal
    wanted: Wanted


AttemptNumber = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
ElementIndex = Annotated[int | None, Query(ge=0, le=10**9)]
Rank = Annotated[int, Query(ge=0, le=9999)]
Position = Annotated[int, Query(ge=0, le=MAX_POSITION)]
Limit = Annotated[int, Query(ge=1, le=4 * 2**20)]


async def _following(request: HTTPConnection) -> Following:
    return cast(Following, request.app.state.following)


FollowingDep = Annotated[Following, Depends(_following)]


@router.get("", response_model=LogOut, responses=problems(404))
async def read_logs(
    task_id: Annotated[UUID, Path()],
    principal: PrincipalDep,
    database: DatabaseDep,
    objects: ObjectsDep,
    attempt: AttemptNumber = None,
    rank: Rank = 0,
    position: Position = 0,
    limit: Limit = 2**18,
    stream: Literal["stdout", "stderr"] | None = None,
    element: ElementIndex = None,
) -> Response:
    """The output of an attempt, by default the newest, from `position` on.

    It goes through about `limit` bytes of output, of which it shows those of `stream`. What is no UTF-8 is replaced.
    Of an `element` of an array it is what its last try wrote, at its positions in the attempt that it was in.
    """
    until = MAX_POSITION
    if element is not None:
        span = await find_element(database, principal, task_id, element)
        attempt, position = span.attempt, max(position, span.begin)
        until = until if span.end is None else span.end
    log = await find_log(database, principal, Wanted(task_id, attempt, rank))
    if isinstance(log, NoAttempt):
        return _reply(None, "", position, log.over)
    known = await extent(database, log)
    entries: list[Entry] = []
    while (end := entries[-1].end if entries else position) < min(position + limit, until):
        chunks = await chunks_from(database, log, end, most=_CHUNKS_AT_ONCE)
        if not chunks:
            break
        for chunk in chunks:
            end = entries[-1].end if entries else position
            if end >= position + limit:
                break
            entries += await asyncio.to_thread(entries_from, objects, chunk, end)
    entries = [entry for entry in cut(entries, limit) if entry.position < until]
    end = entries[-1].end if entries else position
    shown = [entry.json for entry in entries if stream in (None, STREAMS.get(entry.stream, stream))]
    return _reply(log.number, ",".join(shown), end, end >= until or (known.ended and end >= known.position))


@router.websocket("/follow")
async def follow_logs(
    websocket: WebSocket,
    task_id: Annotated[UUID, Path()],
    principal: PrincipalDep,
    database: DatabaseDep,
    following: FollowingDep,
    attempt: AttemptNumber = None,
    rank: Rank = 0,
    position: Position = 0,
) -> None:
    """The same documents as messages, as output comes in, until the attempt has ended and all was sent."""
    wanted = Wanted(task_id, attempt, rank)
    log = await find_log(database, principal, wanted)
    with following.counted(principal):
        await websocket.accept()
        follower = Follower(database, principal, wanted)
        await connection.serve(websocket, _send(websocket, following, follower, log, position))


async def _send(
    websocket: WebSocket, following: Following, follower: Follower, log: LogRef | NoAttempt, position: int
) -> int | None:
    """Send all that there is and comes; with what the connection is to be closed then, None if it is."""
    try:
        while isinstance(log, NoAttempt):
            if log.over:
                await websocket.send_text(_document(None, "", position, True))
                return DONE
            await asyncio.sleep(LOOK_AGAIN_S)
            log = await find_log(follower.database, follower.principal, follower.wanted)
        async with aclosing(following.frames(log, position)) as frames:
            async for frame in frames:
                await websocket.send_text(_document(log.number, frame.json, frame.end, False))
                position = frame.end
        await websocket.send_text(_document(log.number, "", position, True))
    except WebSocketDisconnect:
        return None
    except (ApiError, ReadFailure) as error:
        _log.warning("following output broke off: %s", error)
        return AGAIN
    return DONE


def _reply(attempt: int | None, records: str, position: int, ended: bool) -> Response:
    return Response(_document(attempt, records, position, ended), media_type="application/json")


def _document(attempt: int | None, records: str, position: int, ended: bool) -> str:
    """`records` are what stands between the brackets."""
    number, done = json.dumps(attempt), json.dumps(ended)
    return f'{{"attempt":{number},"records":[{records}],"next_position":{position},"ended":{done}}}'
