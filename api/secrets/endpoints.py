"""The secrets of a workspace: their names can be read, their values only be set."""

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PrincipalDep, SettingsDep
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.problems import problems
from api.secrets import service
from api.secrets.schemas import SecretOut, SecretPut
from api.secrets.tables import Secret
from api.tasks.fields import VariableName
from api.tenants.schemas import WorkspaceName

router = APIRouter(prefix="/customer/workspaces/{workspace}/secrets", tags=["secrets"])

WorkspacePath = Annotated[WorkspaceName, Path(description="The workspace's name")]
NamePath = Annotated[VariableName, Path(description="That of the variable that has its value")]


@router.get("", responses=problems(400, 404))
def list_secrets(
    workspace: WorkspacePath,
    database: DatabaseDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
) -> Page[SecretOut]:
    """The workspace's secrets, newest first, without their values."""
    with database.session() as session:
        query = service.of_workspace(session, principal, workspace)
        rows, following = page_rows(session, query, key=Secret.id, cursor=cursor, limit=limit)
    return Page(items=[_out(row.Secret) for row in rows], next_cursor=following)


@router.put("/{secret}", responses=problems(404, 409))
def put_secret(
    workspace: WorkspacePath,
    secret: NamePath,
    body: SecretPut,
    database: DatabaseDep,
    settings: SettingsDep,
    principal: PrincipalDep,
) -> SecretOut:
    """Make a secret, or replace its value: attempts that start from now on get the new one."""
    value = body.value.get_secret_value()

    def work(session: Session) -> SecretOut:
        return _out(service.put(session, settings, principal, workspace=workspace, name=secret, value=value))

    return database.transact(work)


@router.delete("/{secret}", status_code=204, responses=problems(404))
def remove_secret(workspace: WorkspacePath, secret: NamePath, database: DatabaseDep, principal: PrincipalDep) -> None:
    """What runs keeps what it was given; an attempt that would need it later can't start."""
    database.transact(lambda session: service.remove(session, principal, workspace=workspace, name=secret))


def _out(secret: Secret) -> SecretOut:
    return SecretOut(name=secret.name, created_at=secret.created_at, updated_at=secret.updated_at)
