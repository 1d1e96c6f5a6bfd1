"""The customer's volumes, which all of its people may use in tasks."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.problems import problems
from api.tenants.schemas import WorkspaceName
from api.tenants.tables import Workspace
from api.volumes import repository, service
from api.volumes.schemas import VolumeCreate, VolumeOut
from api.volumes.tables import Volume

router = APIRouter(prefix="/customer/volumes", tags=["volumes"])

WorkspaceQuery = Annotated[WorkspaceName | None, Query(description="Only those of the workspace of this name")]


@router.get("", responses=problems(400))
def list_volumes(
    database: DatabaseDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    workspace: WorkspaceQuery = None,
) -> Page[VolumeOut]:
    """The customer's volumes, newest first."""
    query = repository.of_customer(principal)
    if workspace is not None:
        query = query.where(Workspace.name == workspace)
    return page_of(database, query, repository.view, key=Volume.id, cursor=cursor, limit=limit)


@router.post("", status_code=201, responses=problems(409))
def create_volume(body: VolumeCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> VolumeOut:
    """Make a volume. It comes to lie on the host where something first runs with it, and stays there."""

    def create(session: Session) -> VolumeOut:
        return repository.find(session, principal, service.create(session, principal, body).uid)

    return database.transact(lambda session: once.run(session, VolumeOut, lambda: create(session)))


@router.get("/{volume_id}", responses=problems(404))
def get_volume(volume_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> VolumeOut:
    return database.transact(lambda session: repository.find(session, principal, volume_id))


@router.delete("/{volume_id}", status_code=204, responses=problems(404, 409))
def delete_volume(volume_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Delete a volume that no task needs any more, with all that is in it: its maker, or the owner.

    Its name is free again when its host has confirmed.
    """
    database.transact(lambda session: service.delete(session, principal, volume_id))
