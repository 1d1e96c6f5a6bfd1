"""What customers upload for their tasks: zip archives, named by the SHA-256 of their bytes."""

from functools import partial
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import DatabaseDep, ObjectsDep, PrincipalDep, SettingsDep
from api.errors import NotFound, Unprocessable
from api.problems import problems
from api.uploads import service
from api.uploads.receiving import Receiver

router = APIRouter(prefix="/customer/uploads", tags=["uploads"])

DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="The SHA-256 of the archive's bytes")]

_ARCHIVE = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def _receiver(request: Request) -> Receiver:
    return cast(Receiver, request.app.state.receiver)


ReceiverDep = Annotated[Receiver, Depends(_receiver)]


@router.head("/{digest}", status_code=204, responses=problems(404))
def head_upload(digest: DigestPath, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Whether it is there. If it is, it stays for an hour at least: time enough to submit what needs it."""
    find = partial(service.exists, customer_id=principal.tenant_id, digest=digest)
    if not database.transact(find):
        raise NotFound("There is no such upload.")


@router.put(
    "/{digest}",
    status_code=201,
    response_class=Response,
    responses={204: {"description": "It was there before"}, **problems(408, 409)},
    openapi_extra=_ARCHIVE,
)
async def put_upload(
    digest: DigestPath,
    request: Request,
    database: DatabaseDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    receiver: ReceiverDep,
) -> Response:
    """Upload an archive. One that is there is not looked at again.

    It has plain files and folders only, each once and by a relative path, stored or deflated.
    """
    find = partial(service.exists, customer_id=principal.tenant_id, digest=digest)
    if await run_in_threadpool(database.transact, find):
        return Response(status_code=204)
    body = receiver.receive(request.stream(), customer_id=principal.tenant_id, max_bytes=settings.max_upload_bytes)
    async with body as received:
        if received.digest != digest:
            raise Unprocessable(f"The SHA-256 of what came is {received.digest}.", code="digest_mismatch")
        await run_in_threadpool(service.store, database, objects, settings, principal, received)
    return Response(status_code=201)
