"""Uploads as Ray's clients make them: under a name of theirs, which is a hash of the files."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import DatabaseDep, ObjectsDep, PrincipalDep, SettingsDep
from api.errors import BadRequest, NotFound
from api.ray_jobs.plain import NoBrowsers, PlainRoute, texts
from api.ray_jobs.repository import package_uri
from api.ray_jobs.runtime_env import PACKAGE
from api.uploads import service
from api.uploads.endpoints import ReceiverDep

router = APIRouter(prefix="/api/packages", tags=["ray jobs"], route_class=PlainRoute, dependencies=[NoBrowsers])
PATH = r"/api/packages/[^/]+/[^/]+"

Protocol = Annotated[str, Path(description="`gcs`, of all packages", examples=["gcs"])]
PackageName = Annotated[str, Path(description="Ends in `.zip` or `.whl`", examples=["_ray_pkg_0123456789abcdef.zip"])]

_ARCHIVE = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/{protocol}/{package_name}", response_class=Response, responses=texts(404))
def find_package(
    protocol: Protocol, package_name: PackageName, database: DatabaseDep, principal: PrincipalDep
) -> Response:
    """Whether one's customer has it. If so, it stays for an hour at least: time enough to submit what needs it."""
    name = f"{protocol}/{package_name}"
    find = partial(service.find_package, customer_id=principal.tenant_id, name=name)
    if not _is_package(protocol, package_name) or database.transact(find) is None:
        raise NotFound(f"Package {package_uri(name)} does not exist")
    return Response()


@router.put(
    "/{protocol}/{package_name}", response_class=Response, responses=texts(405, 408, 413), openapi_extra=_ARCHIVE
)
async def put_package(
    protocol: Protocol,
    package_name: PackageName,
    request: Request,
    database: DatabaseDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    receiver: ReceiverDep,
) -> Response:
    """Upload a zip archive, or a wheel, which is one. One that is there is not looked at again: names are hashes."""
    name = f"{protocol}/{package_name}"
    if not _is_package(protocol, package_name):
        raise BadRequest(f"{package_uri(name)}: only zip archives and wheels are taken")
    find = partial(service.find_package, customer_id=principal.tenant_id, name=name)
    if await run_in_threadpool(database.transact, find) is not None:
        return Response()
    body = receiver.receive(request.stream(), customer_id=principal.tenant_id, max_bytes=settings.max_upload_bytes)
    async with body as received:
        await run_in_threadpool(service.store, database, objects, settings, principal, received)
        keep = partial(service.name_package, customer_id=principal.tenant_id, name=name, digest=received.digest)
        await run_in_threadpool(database.transact, keep)
    return Response()


def _is_package(protocol: str, name: str) -> bool:
    return protocol == "gcs" and PACKAGE.fullmatch(name) is not None
