"""The output of tasks over HTTP: a part of it at a time, or followed as it comes."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from psycopg import Error as ReadFailure
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from api.audit.service import record
from api.db import Database
from api.deps import DatabaseDep, ObjectsDep, PrincipalDep
from api.errors import ApiError, NotFound
from api.logs import connection
from api.logs.attempts import NoAttempt, Wanted, find_log
from api.logs.connection import AGAIN, DONE
from api.logs.documents import Follower, document
from api.logs.elements import find_element
from api.logs.entries import STREAMS
from api.logs.following import Following
from api.logs.pages import Span, read_page, span_of_element, span_of_task
from api.object_store import ObjectStore
from api.principal import Principal
from api.problems import problems
from api.tasks.tables import Task
from scheduler.log_records import MAX_POSITION

router = APIRouter(prefix="/customer/tasks/{task_id}/logs", tags=["tasks"])
admin_router = APIRouter(prefix="/admin/tasks/{task_id}/logs", tags=["tasks"])

_JSON = "application/json"

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


AttemptNumber = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
ElementIndex = Annotated[int | None, Query(ge=0, le=10**9)]
Rank = Annotated[int, Query(ge=0, le=9999)]
Position = Annotated[int, Query(ge=0, le=MAX_POSITION)]
Limit = Annotated[int, Query(ge=1, le=4 * 2**20)]


async def _following(request: HTTPConnection) -> Following:
    return cast(Following, request.app.state.following)


FollowingDep = Annotated[Following, Depends(_following)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a task's output is asked for."""

    attempt: AttemptNumber = None
    rank: Rank = 0
    position: Position = 0
    limit: Limit = 2**18
    stream: Literal["stdout", "stderr"] | None = None
    element: ElementIndex = None


AskedQuery = Annotated[Asked, Depends()]


@router.get("", response_model=LogOut, responses=problems(404))
async def read_logs(
    task_id: Annotated[UUID, Path()],
    principal: PrincipalDep,
    database: DatabaseDep,
    objects: ObjectsDep,
    asked: AskedQuery,
) -> Response:
    """The output of an attempt, by default the newest, from `position` on.

    It goes through about `limit` bytes of output, of which it shows those of `stream`. What is no UTF-8 is replaced.
    Of an `element` of an array it is what its last try wrote, at its positions in the attempt that it was in; with an
    `attempt`, the try there that has `position` or begins after it.
    """
    return await _answer(database, objects, principal, task_id, asked)


@admin_router.get("", response_model=LogOut, responses=problems(404))
async def read_any_logs(
    task_id: Annotated[UUID, Path()],
    principal: PrincipalDep,
    database: DatabaseDep,
    objects: ObjectsDep,
    asked: AskedQuery,
) -> Response:
    """The output of any customer's task, as its owner reads it. Each answer leaves a row in the audit trail."""
    answer = await _answer(database, objects, principal, task_id, asked)
    details = {"attempt": asked.attempt, "rank": asked.rank, "element": asked.element, "position": asked.position}
    await run_in_threadpool(database.transact, partial(_record_reading, principal, task_id, details))
    return answer


def _record_reading(principal: Principal, task_uid: UUID, details: dict[str, int | None], session: Session) -> None:
    record(
        session,
        actor=principal.actor,
        action="task.read_output",
        target=f"task:{task_uid}",
        customer_id=session.scalar(select(Task.customer_id).where(Task.uid == task_uid)),
        address=principal.address,
        details={name: value for name, value in details.items() if value is not None},
    )


async def _answer(
    database: Database, objects: ObjectStore, principal: Principal, task_uid: UUID, asked: Asked
) -> Response:
    position = asked.position
    if asked.element is not None:
        _only_rank(asked.rank)
        span: Span | NoAttempt = await span_of_element(
            database, principal, task_uid, asked.element, attempt=asked.attempt, position=position
        )
    else:
        span = await span_of_task(database, principal, Wanted(task_uid, asked.attempt, asked.rank), position)
    if isinstance(span, NoAttempt):
        return Response(document(None, "", position, span.over), media_type=_JSON)
    page = await read_page(database, objects, span, limit=asked.limit)
    shown = [entry.json for entry in page.entries if asked.stream in (None, STREAMS.get(entry.stream, asked.stream))]
    return Response(document(span.log.number, ",".join(shown), page.end, page.ended), media_type=_JSON)


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
    element: ElementIndex = None,
) -> None:
    """The same documents as messages, as output comes in, until the attempt has ended and all was sent; of an
    `element`, until that has ended, over all tries from that one on."""
    follower = Follower(database, principal, following)
    if element is not None:
        _only_rank(rank)
        found = await find_element(database, principal, task_id, element)
        number = found.at(attempt, position)
        if number is None and attempt is not None:
            raise NotFound(f"The element has no such try in attempt {attempt}.")
        documents = follower.of_element(task_id, element, found, number, position)
    else:
        wanted = Wanted(task_id, attempt, rank)
        documents = follower.of_task(wanted, await find_log(database, principal, wanted), position)
    with following.counted(principal):
        await websocket.accept()
        await connection.serve(websocket, _send(websocket, documents))


async def _send(websocket: WebSocket, documents: AsyncGenerator[str, None]) -> int | None:
    """Send all of them; with what the connection is to be closed then, None if it is."""
    try:
        async with aclosing(documents) as following:
            async for each in following:
                await websocket.send_text(each)
    except WebSocketDisconnect:
        return None
    except (ApiError, ReadFailure) as error:
        _log.warning("following output broke off: %s", error)
        return AGAIN
    return DONE


def _only_rank(rank: int) -> None:
    """
    Raises:
        NotFound: an element runs on one node.
    """
    if rank:
        raise NotFound(f"The element has no node of rank {rank}.")
