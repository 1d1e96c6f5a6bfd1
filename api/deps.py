"""What endpoints depend on, taken from the application that serves them."""

from typing import Annotated, cast

from fastapi import Depends, Request

from api.db import Database
from api.principal import Principal
from api.settings import Settings


def _database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _principal(request: Request) -> Principal:
    """Set by the policy's dependency, which has run before every endpoint."""
    return cast(Principal, request.state.principal)


DatabaseDep = Annotated[Database, Depends(_database)]
SettingsDep = Annotated[Settings, Depends(_settings)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
