"""What the Hub calls: options to offer, its named servers as the platform sees them, and their containers."""

import asyncio
import time
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.billing.schemas import RunTimeOut
from api.change_feed import ChangeFeed
from api.db import Database
from api.deps import DatabaseDep, SettingsDep
from api.environments import hub_service, job_access, repository
from api.environments.containers import Operation, Target, call_container, check_arguments, find_target
from api.environments.hub_service import HubOptions, StartOptions, UserStanding
from api.environments.views import ServerList, ServerView, server_entry, server_view
from api.errors import Conflict, NotFound
from api.host_calls import HostCalls
from api.hostlink import Hostlink
from api.internal.peer import HubPeer
from api.problems import problems
from api.settings import Settings

router = APIRouter(prefix="/internal/hub", tags=["hub"])

MAX_WAIT_S = 60.0
STOPPING_S = 5.0  # how long a start waits for the end of the run before
LOOK_AGAIN_STOPPING_S = 0.1
LOOK_AGAIN_S = 1.0  # a lost notification costs this much at most

_DOCKERS_OWN: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"schema": {}}}}}

Username = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$")]
ServerName = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class StartIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    options: StartOptions | None = None


class StopIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    container_name: str | None = Field(None, max_length=128)


class FailedIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    container_name: str = Field(max_length=128)
    error: str = Field(max_length=10_000)


def _changes(request: Request) -> ChangeFeed:
    return cast(ChangeFeed, request.app.state.changes)


def _hostlink(request: Request) -> Hostlink:
    return cast(Hostlink, request.app.state.hostlink)


def _host_calls(request: Request) -> HostCalls:
    return cast(HostCalls, request.app.state.host_calls)


@router.get("/options", responses=problems(404))
def get_options(peer: HubPeer, database: DatabaseDep, username: Annotated[str, Query(max_length=64)]) -> HubOptions:
    """What a user may start."""
    with database.session() as session:
        return hub_service.options(session, username)


@router.get("/run-time", responses=problems(404))
def get_run_time(
    peer: HubPeer, database: DatabaseDep, settings: SettingsDep, username: Annotated[str, Query(max_length=64)]
) -> RunTimeOut | None:
    """How long the user's customer can pay for what runs, and the warnings that stand; null for an administrator."""
    with database.session() as session:
        return hub_service.money(session, username, grace_s=settings.stop_grace_s)


@router.get("/users/{username}", responses=problems(404))
def get_user(username: Username, peer: HubPeer, database: DatabaseDep) -> UserStanding:
    """Whether a user is still let in, and since when sessions count."""
    with database.session() as session:
        return hub_service.standing(session, username)


@router.get("/servers/{username}")
def list_servers(username: Username, peer: HubPeer, database: DatabaseDep) -> ServerList:
    """A user's environments, however they were made, by name."""
    with database.session() as session:
        loaded = repository.load(session, repository.named_by(session, username))
        return ServerList(items=[server_entry(entry) for entry in loaded])


@router.post("/servers/{username}/{name}/start", responses=problems(404, 409))
async def start_server(
    username: Username,
    name: ServerName,
    peer: HubPeer,
    database: DatabaseDep,
    settings: SettingsDep,
    body: Annotated[StartIn | None, Body()] = None,
) -> ServerView:
    """Create the environment, or start it again, and queue it. Idempotent while it is on its way."""
    wanted = body.options if body is not None else None
    work = partial(hub_service.start, settings=settings, username=username, name=name, wanted=wanted)
    deadline = time.monotonic() + STOPPING_S
    while True:
        try:
            await run_in_threadpool(database.transact, work)
            break
        except Conflict as error:
            # The Hub calls a server stopped when its container is gone; its GPUs are given back a moment later.
            if error.code != "environment_stopping" or time.monotonic() > deadline:
                raise
            await asyncio.sleep(LOOK_AGAIN_STOPPING_S)
    return (await run_in_threadpool(_view, database, username, name))[1]


@router.get("/servers/{username}/{name}", responses=problems(404))
async def get_server(
    username: Username,
    name: ServerName,
    peer: HubPeer,
    database: DatabaseDep,
    changes: Annotated[ChangeFeed, Depends(_changes)],
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
    seen: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> ServerView:
    """The server; with `seen`, waits up to `wait_s` seconds for a version other than that."""
    environment_id, view = await run_in_threadpool(_view, database, username, name)
    deadline = time.monotonic() + wait_s
    while view.version == seen and (left := deadline - time.monotonic()) > 0:
        event = changes.watch(environment_id)
        try:
            # Between the look before and the watch something may have changed: look again first.
            _, view = await run_in_threadpool(_view, database, username, name)
            if view.version == seen:
                await _set_within(event, min(left, LOOK_AGAIN_S))
                _, view = await run_in_threadpool(_view, database, username, name)
        finally:
            changes.unwatch(environment_id, event)
    return view


@router.post("/servers/{username}/{name}/stop", responses=problems(404, 409))
def stop_server(
    username: Username,
    name: ServerName,
    peer: HubPeer,
    database: DatabaseDep,
    body: Annotated[StopIn | None, Body()] = None,
) -> ServerView:
    """Desired: stopped; with a container's name, only if that is the current one."""
    container_name = body.container_name if body is not None else None
    work = partial(hub_service.stop, username=username, name=name, container_name=container_name)
    database.transact(work)
    return _view(database, username, name)[1]


@router.post("/servers/{username}/{name}/ready", responses=problems(404, 409))
def server_ready(username: Username, name: ServerName, peer: HubPeer, database: DatabaseDep) -> ServerView:
    """The single-user server answers: observed = running."""
    database.transact(partial(hub_service.ready, username=username, name=name))
    return _view(database, username, name)[1]


@router.post("/servers/{username}/{name}/failed", responses=problems(404, 409))
def server_failed(
    username: Username, name: ServerName, peer: HubPeer, database: DatabaseDep, body: FailedIn
) -> ServerView:
    """The Hub gave up a container that nobody asked to stop: one that starts is started again, within bounds."""
    work = partial(
        hub_service.failed, username=username, name=name, container_name=body.container_name, error=body.error
    )
    database.transact(work)
    return _view(database, username, name)[1]


@router.post("/servers/{username}/{name}/docker/{operation}", responses=problems(404, 409, 424) | _DOCKERS_OWN)
async def docker(
    username: Username,
    name: ServerName,
    operation: Operation,
    peer: HubPeer,
    database: DatabaseDep,
    settings: SettingsDep,
    hostlink: Annotated[Hostlink, Depends(_hostlink)],
    host_calls: Annotated[HostCalls, Depends(_host_calls)],
    arguments: Annotated[dict[str, Any] | None, Body()] = None,  # Any: JSON, checked again by the host
) -> Response:
    """One operation on the environment's own container, on its host. A Docker error answers 424."""
    checked = check_arguments(operation, arguments or {})
    target = await run_in_threadpool(find_target, database, username=username, name=name)
    if operation is Operation.CREATE_CONTAINER:
        checked["environment"] |= await run_in_threadpool(_grant_job_access, database, settings, target)
    call = partial(call_container, database, hostlink, target, operation, checked)
    status, answer = await host_calls.run(target.host_uid, call)
    media_type = "application/json" if status < 400 else "application/problem+json"
    return JSONResponse(answer, status_code=status, media_type=media_type)


def _grant_job_access(database: Database, settings: Settings, target: Target) -> dict[str, str]:
    work = partial(
        job_access.grant, environment_id=target.environment_id, public_url=settings.public_url, actor=hub_service.ACTOR
    )
    return database.transact(work)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _view(database: Database, username: str, name: str) -> tuple[int, ServerView]:
    with database.session() as session:
        environment = repository.find_named(session, username=username, name=name)
        if environment is None:
            raise NotFound("There is no such environment.", code="no_such_environment")
        return environment.id, server_view(repository.load(session, [environment])[0])
