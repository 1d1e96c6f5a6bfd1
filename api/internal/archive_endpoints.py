"""What hosts fetch for the attempts that they run: the archives that the order names, and no others."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.deps import DatabaseDep, ObjectsDep
from api.errors import NotFound
from api.ids import parse_uid
from api.internal.attempt_endpoints import GenerationPath, UidPath
from api.internal.peer import HostPeer
from api.object_store import NoSuchObject
from api.problems import problems
from api.tasks.tables import Task
from api.uploads.references import archives_of
from api.uploads.tables import Upload
from scheduler.states import AllocationState

router = APIRouter(prefix="/internal/attempts", tags=["hosts"])

DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]

_ZIP = "application/zip"
_RUNS = (AllocationState.PLACING, AllocationState.ACTIVE)


@router.get(
    "/{allocation_uid}/{generation}/archives/{digest}",
    response_class=StreamingResponse,
    responses={200: {"content": {_ZIP: {"schema": {"type": "string", "format": "binary"}}}}, **problems(404)},
)
def get_archive(
    allocation_uid: UidPath,
    generation: GenerationPath,
    digest: DigestPath,
    peer: HostPeer,
    database: DatabaseDep,
    objects: ObjectsDep,
) -> StreamingResponse:
    """The bytes of an archive that the attempt under this lease needs, while the host holds the lease."""
    assert peer.host_id is not None
    with database.session() as session:
        upload = _find(session, peer.host_id, parse_uid(allocation_uid), generation, digest)
    if upload is None:
        raise NotFound("There is no such lease on this host, or no such archive in its order.")
    try:
        content = objects.stream(upload.object_key)
    except NoSuchObject as error:
        raise NotFound("The archive is there no more: it has to be uploaded again.") from error
    return StreamingResponse(content, media_type=_ZIP, headers={"Content-Length": str(upload.size_bytes)})


def _find(session: Session, host_id: int, allocation_uid: UUID | None, generation: int, digest: str) -> Upload | None:
    query = select(Task).join(Allocation, Allocation.id == Task.allocation_id)
    task = session.scalar(
        query.where(
            Allocation.uid == allocation_uid,
            Allocation.generation == generation,
            Allocation.host_ids.contains([host_id]),
            Allocation.state.in_(_RUNS),
        )
    )
    if task is None or digest not in {each.digest for each in archives_of(task)}:
        return None
    return session.get(Upload, (task.customer_id, digest))
