"""What hosts call to bring the output of attempts."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from api.deps import DatabaseDep, ObjectsDep, SettingsDep
from api.internal.peer import HostPeer, Peer
from api.logs import receiving
from api.logs.receiving import Incoming, Source
from api.problems import problems
from scheduler.log_records import MAX_POSITION

router = APIRouter(prefix="/internal/attempts/{allocation_uid}/{generation}/log/{rank}", tags=["hosts"])

Generation = Annotated[int, Path(ge=0, le=2**31 - 1)]
Rank = Annotated[int, Path(ge=0, le=9999)]
Position = Annotated[int, Path(ge=0, le=MAX_POSITION)]
Length = Annotated[int, Query(ge=0, le=MAX_POSITION)]
_RECORDS = {"requestBody": {"content": {"application/zstd": {"schema": {"type": "string", "format": "binary"}}}}}


class LogStanding(BaseModel):
    expected: int
    whole: bool


@router.get("", responses=problems(404))
def show_standing(
    allocation_uid: UUID, generation: Generation, rank: Rank, peer: HostPeer, database: DatabaseDep
) -> LogStanding:
    """Where the output of this host's part of an attempt goes on, and whether all of it is here."""
    with database.session() as session:
        found = receiving.standing(session, _source(peer, allocation_uid, generation, rank))
    return LogStanding(expected=found.expected, whole=found.whole)


@router.put("/{position}", status_code=204, responses=problems(404, 409, 422), openapi_extra=_RECORDS)
async def receive_chunk(
    request: Request,
    allocation_uid: UUID,
    generation: Generation,
    rank: Rank,
    position: Position,
    peer: HostPeer,
    database: DatabaseDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    background: BackgroundTasks,
    length: Length = 0,
    last: bool = False,
) -> None:
    """Output: whole records, compressed with zstd. `length` is how much output they cover.

    What does not begin where the log ends is refused with `not_expected`, and `errors` says where that is.
    """
    incoming = Incoming(position, length, await request.body(), last)
    source = _source(peer, allocation_uid, generation, rank)
    if await run_in_threadpool(partial(receiving.take, database, objects, settings, source, incoming)):
        background.add_task(request.app.state.merging.run)


def _source(peer: Peer, allocation_uid: UUID, generation: int, rank: int) -> Source:
    assert peer.host_id is not None
    return Source(peer.host_id, allocation_uid, generation, rank)
