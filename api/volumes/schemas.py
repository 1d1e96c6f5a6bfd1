"""Requests and replies about volumes."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.tasks.fields import Name
from api.tenants.schemas import WorkspaceName

MIN_BYTES = 2**20
MAX_BYTES = 2**46


class VolumeCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="A DNS label, unique in the workspace", examples=["data"])
    size_bytes: Annotated[int, Field(ge=MIN_BYTES, le=MAX_BYTES, examples=[10 * 2**30])]
    workspace: WorkspaceName | None = Field(None, description="By default, your customer's default one")


class VolumeOut(BaseModel):
    """`host` is the name of the host where it lies: null until something has run with it for the first time."""

    id: UUID
    name: str
    workspace: str
    owner: str
    size_bytes: int
    host: str | None
    created_at: datetime
    delete_at: datetime | None = Field(description="Somebody has asked for its deletion, which is under way")
