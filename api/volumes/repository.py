"""Volumes as they are read, a customer's own only."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, select, text
from sqlalchemy.orm import Session

from api.errors import NotFound
from api.identity.tables import User
from api.machines.tables import Host
from api.principal import Principal
from api.tasks.tables import OPEN, Task
from api.tenants.tables import Workspace
from api.volumes.schemas import VolumeOut
from api.volumes.tables import Volume

_MOUNTED = text(
    f"select name from tasks where workspace_id = :workspace_id and state in ({OPEN})"
    " and spec -> 'mounts' @> jsonb_build_array(jsonb_build_object('volume', cast(:name as text))) limit 1"
)


def of_customer(principal: Principal) -> Select[Volume, str, str, str | None]:
    """With the names of workspace, owner and host."""
    return (
        select(Volume, Workspace.name.label("workspace"), User.username, Host.name.label("host"))
        .join(Workspace, Workspace.id == Volume.workspace_id)
        .join(User, User.id == Volume.user_id)
        .outerjoin(Host, Host.id == Volume.host_id)
        .where(Volume.customer_id == principal.tenant_id, Volume.deleted_at.is_(None))
    )


def find(session: Session, principal: Principal, uid: UUID) -> VolumeOut:
    """
    Raises:
        NotFound
    """
    row = session.execute(of_customer(principal).where(Volume.uid == uid)).one_or_none()
    if row is None:
        raise NotFound("There is no such volume.")
    return view(row)


def view(row: Row[*tuple[Any, ...]]) -> VolumeOut:
    volume: Volume = row.Volume
    return VolumeOut(
        id=volume.uid, name=volume.name, workspace=row.workspace, owner=row.username, size_bytes=volume.size_bytes,
        host=row.host, created_at=volume.created_at, delete_at=volume.delete_at,
    )  # fmt: skip


def mounted_by(session: Session, volume: Volume) -> str | None:
    """The name of some task that has not ended and mounts it."""
    name: str | None = session.scalar(_MOUNTED, {"workspace_id": volume.workspace_id, "name": volume.name})
    return name


def paths_of(task: Task) -> dict[str, str]:
    """Where a task mounts its volumes, by their names; as its document has it."""
    return {mount["volume"]: mount["path"] for mount in task.spec.get("mounts", ())}


def named(workspace_id: int, names: Sequence[str]) -> Select[Volume]:
    """Those of these names that are not to be deleted, in the order of their ids."""
    return (
        select(Volume)
        .where(Volume.workspace_id == workspace_id, Volume.name.in_(names), Volume.delete_at.is_(None))
        .order_by(Volume.id)
    )
