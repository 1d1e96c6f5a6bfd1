"""What endpoints depend on, taken from the application that serves them.

They are coroutines because they never wait: plain functions would each be sent to a thread.
"""

from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from api.allocations.planner import Planner
from api.db import Database
from api.identity.authorisation import client_address
from api.identity.signing_keys import KeyRing
from api.object_store import ObjectStore
from api.principal import Principal
from api.rate_limit import RateLimits
from api.settings import Settings


async def _database(request: HTTPConnection) -> Database:
    return cast(Database, request.app.state.database)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _principal(request: HTTPConnection) -> Principal:
    """Set by the policy's dependency, which has run before every endpoint."""
    return cast(Principal, request.state.principal)


async def _keys(request: Request) -> KeyRing:
    return cast(KeyRing, request.app.state.keys)


async def _planner(request: Request) -> Planner:
    return cast(Planner, request.app.state.planner)


async def _objects(request: Request) -> ObjectStore:
    return cast(ObjectStore, request.app.state.objects)


async def _address(request: Request) -> str:
    return client_address(request)


async def _sign_in_limit(request: Request) -> None:
    """Counts an attempt to prove a secret: for endpoints that take one from anybody."""
    cast(RateLimits, request.app.state.rate_limits).hit_sign_in(client_address(request))


DatabaseDep = Annotated[Database, Depends(_database)]
SettingsDep = Annotated[Settings, Depends(_settings)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
PlannerDep = Annotated[Planner, Depends(_planner)]
KeysDep = Annotated[KeyRing, Depends(_keys)]
ObjectsDep = Annotated[ObjectStore, Depends(_objects)]
AddressDep = Annotated[str, Depends(_address)]
SignInLimit = Depends(_sign_in_limit)
