"""The customer's environments."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from api.db import Database
from api.deps import DatabaseDep, PrincipalDep, SettingsDep
from api.environments import repository, service
from api.environments.schemas import EnvironmentCreate, EnvironmentOut, EnvironmentStart
from api.environments.tables import Environment
from api.environments.views import public_view
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.principal import Principal
from api.problems import problems
from api.settings import Settings
from scheduler.states import EnvironmentState

router = APIRouter(prefix="/customer/environments", tags=["environments"])

ObservedQuery = Annotated[EnvironmentState | None, Query(description="Only those in this state")]


@router.get("", responses=problems(400))
def list_environments(
    database: DatabaseDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    observed: ObservedQuery = None,
) -> Page[EnvironmentOut]:
    """Members see their own, owners their customer's; newest first."""
    query = repository.visible_to(principal)
    if observed is not None:
        query = query.where(Environment.observed == observed)
    with database.session() as session:
        rows, following = page_rows(session, query, key=Environment.id, cursor=cursor, limit=limit)
        loaded = repository.load(session, [row.Environment for row in rows])
    return Page(items=[public_view(item, settings) for item in loaded], next_cursor=following)


@router.post("", status_code=201, responses=problems(409))
def create_environment(
    body: EnvironmentCreate, database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep, once: OnceDep
) -> EnvironmentOut:
    """Create an environment and queue it; it starts by itself when what it asks for is free."""

    def create(session: Session) -> EnvironmentOut:
        environment = service.create(session, settings, principal.caller, body)
        return public_view(repository.load(session, [environment])[0], settings)

    return database.transact(lambda session: once.run(session, EnvironmentOut, partial(create, session)))


@router.get("/{environment_id}", responses=problems(404))
def get_environment(
    environment_id: UUID, database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep
) -> EnvironmentOut:
    return _view(database, settings, principal, environment_id)


@router.post("/{environment_id}/start", responses=problems(404, 409))
def start_environment(
    environment_id: UUID,
    database: DatabaseDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    body: EnvironmentStart | None = None,
) -> EnvironmentOut:
    """Queue it again. It returns to the host where its /home lies. What the body names replaces what it had."""

    def work(session: Session) -> None:
        environment = repository.find(session, principal, environment_id)
        service.start(session, settings, principal.caller, environment.uid, body)

    database.transact(work)
    return _view(database, settings, principal, environment_id)


@router.post("/{environment_id}/stop", responses=problems(404, 409))
def stop_environment(
    environment_id: UUID, database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep
) -> EnvironmentOut:
    """End its container and give its GPUs back; /home stays."""
    database.transact(partial(_stop, principal=principal, uid=environment_id, delete=False))
    return _view(database, settings, principal, environment_id)


@router.delete("/{environment_id}", status_code=204, responses=problems(404, 409))
def delete_environment(environment_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Stop it, then delete it with its /home; its name is free again when that has happened."""
    database.transact(partial(_stop, principal=principal, uid=environment_id, delete=True))


def _stop(session: Session, *, principal: Principal, uid: UUID, delete: bool) -> None:
    environment = repository.find(session, principal, uid)
    service.stop(session, principal.caller, environment.uid, delete=delete)


def _view(database: Database, settings: Settings, principal: Principal, uid: UUID) -> EnvironmentOut:
    with database.session() as session:
        environment = repository.find(session, principal, uid)
        return public_view(repository.load(session, [environment])[0], settings)
