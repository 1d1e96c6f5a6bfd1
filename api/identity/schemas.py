"""Requests and replies about who one is."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.identity.passwords import AnyPassword, NewPassword
from api.principal import Role
from api.text import Email, ShortText, Username


class Request(BaseModel):
    """A request body: unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class Login(Request):
    username: Annotated[str, Field(min_length=1, max_length=64)]
    password: AnyPassword


class RefreshTokenBody(Request):
    refresh_token: Annotated[str, Field(min_length=1, max_length=200)]


class Tokens(BaseModel):
    access_token: str
    refresh_token: str
    token_type: str = "bearer"
    expires_in: int
    """Seconds that the access token is good for."""
    must_change_password: bool


class PasswordChange(Request):
    current_password: AnyPassword
    new_password: NewPassword


class CustomerName(BaseModel):
    id: UUID
    name: str


class Me(BaseModel):
    id: UUID
    username: str
    email: str | None
    display_name: str
    role: Role
    customer: CustomerName | None
    must_change_password: bool


class ProfileChange(Request):
    email: Email | None = None
    display_name: ShortText | None = None


class UserView(BaseModel):
    """A user as administrators and owners see one."""

    id: UUID
    username: str
    email: str | None
    display_name: str
    role: Role
    customer: CustomerName | None
    must_change_password: bool
    locked_until: datetime | None
    disabled_at: datetime | None
    created_at: datetime


class AdminCreate(Request):
    username: Username
    email: Email | None = None
    password: NewPassword | None = None


class UserWithPassword(BaseModel):
    """The generated first password is in this one reply only."""

    user: UserView
    password: str | None


class ApiKeyCreate(Request):
    name: ShortText
    scopes: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=50)]
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


class ApiKeyView(BaseModel):
    id: UUID
    name: str
    owner: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class ApiKeyCreated(ApiKeyView):
    key: str
    """The key itself, in this one reply only."""
