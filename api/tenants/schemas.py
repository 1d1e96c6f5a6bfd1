"""Requests and replies about customers, their people and the platform's settings."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from api.allocations.request import MAX_PRIORITY
from api.identity.passwords import NewPassword
from api.identity.schemas import Request
from api.principal import Role
from api.quotas.schemas import QuotaIn
from api.text import Email, ShortText, Username

CustomerRole = Literal[Role.OWNER, Role.MEMBER]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]


Weight = Annotated[float, Field(ge=0.01, le=1000, description="Its share beside others' in fair sharing")]
WorkspaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$", examples=["research"])]
Priority = Annotated[int, Field(ge=0, le=MAX_PRIORITY, description="The most that its people may ask for")]


class OwnerCreate(Request):
    username: Username
    email: Email | None = None
    password: NewPassword | None = None


class CustomerCreate(Request):
    name: ShortText
    currency: Currency = "USD"
    owner: OwnerCreate


class CustomerChange(Request):
    """Only what is named changes."""

    name: ShortText | None = None
    weight: Weight | None = None
    priority_ceiling: Priority | None = None


class CustomerView(BaseModel):
    id: UUID
    name: str
    currency: str
    weight: float
    priority_ceiling: int
    disabled_at: datetime | None
    created_at: datetime


class OwnerCreated(BaseModel):
    id: UUID
    username: str
    email: str | None
    password: str | None
    """The generated first password, in this one reply only; null if one was given."""


class CustomerCreated(CustomerView):
    owner: OwnerCreated


class Registration(Request):
    customer_name: ShortText
    username: Username
    email: Email
    password: NewPassword


class MemberCreate(Request):
    username: Username
    email: Email | None = None
    password: NewPassword | None = None
    role: CustomerRole = Role.MEMBER


class InvitationCreate(Request):
    email: Email
    role: CustomerRole = Role.MEMBER


class InvitationView(BaseModel):
    id: UUID
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None


class InvitationCreated(InvitationView):
    token: str
    """To be sent to the invited person, in this one reply only."""


class InvitationAccept(Request):
    token: Annotated[str, Field(min_length=1, max_length=200)]
    username: Username
    password: NewPassword


class WorkspaceCreate(Request):
    name: WorkspaceName


class WorkspaceView(BaseModel):
    id: UUID
    name: str
    is_default: bool
    created_at: datetime


class PlatformSettings(BaseModel):
    self_registration: bool = False
    invitation_valid_days: int = 7
    default_quota: QuotaIn = QuotaIn()


class PlatformSettingsChange(Request):
    """Only what is named changes."""

    self_registration: bool | None = None
    invitation_valid_days: Annotated[int, Field(ge=1, le=90)] | None = None
    default_quota: QuotaIn | None = None
