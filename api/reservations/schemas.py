"""Advance reservations as the API shows and takes them."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field, model_validator

from api.allocations.request import (
    MAX_ALTERNATIVES,
    MAX_BYTES,
    MAX_CPU_MILLI,
    MAX_GPUS,
    MAX_NODES,
    ModelName,
    SelectorText,
    VersionText,
)
from api.identity.schemas import Request
from scheduler.states import ReservationState

MIN_S = 60
MAX_S = 31 * 86_400
MAX_OCCURRENCES = 100

WorkspaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")]


class Every(StrEnum):
    DAY = "day"
    WEEK = "week"

    @property
    def step(self) -> timedelta:
        """Of 24 hours or seven times that, whatever clocks do in between."""
        return timedelta(days=1) if self is Every.DAY else timedelta(days=7)


class ReservationCreate(Request):
    """Whole GPUs from a moment to another, on one host or more; with `every`, again and again."""

    starts_at: AwareDatetime
    ends_at: AwareDatetime | None = Field(None, description="Either this or `duration_s`")
    duration_s: int | None = Field(None, ge=MIN_S, le=MAX_S)
    every: Every | None = Field(None, description="A day has 24 hours, a week seven days; needs `count` or `until`")
    count: int | None = Field(None, ge=1, le=MAX_OCCURRENCES, description="How often in all")
    until: AwareDatetime | None = Field(None, description="The last one starts before")
    gpus: int = Field(ge=1, le=MAX_GPUS, description="On each host")
    nodes: int = Field(1, ge=1, le=MAX_NODES, description="How many hosts")
    gpu_models: list[ModelName] = Field([], max_length=MAX_ALTERNATIVES, description="Alternatives; empty: any model")
    gpu_memory_bytes: int = Field(0, ge=0, le=MAX_BYTES, description="Memory of each GPU, at least")
    selectors: list[SelectorText] = Field([], max_length=16, description="All must hold for the hosts")
    driver: VersionText | None = None
    cuda: VersionText | None = None
    cpu_milli: int | None = Field(None, ge=100, le=MAX_CPU_MILLI, description="On each host; default: a share per GPU")
    memory_bytes: int | None = Field(None, ge=2**28, le=MAX_BYTES, description="On each host; default: a share per GPU")
    environment: UUID | None = Field(None, description="One of yours that is to run in it: on the host of its volume")
    workspace: WorkspaceName | None = Field(None, description="Default: your customer's default one")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.ends_at is None) == (self.duration_s is None):
            raise ValueError("give ends_at or duration_s")
        if self.every is None and (self.count is not None or self.until is not None):
            raise ValueError("count and until need every")
        if self.every is not None and (self.count is None) == (self.until is None):
            raise ValueError("with every, give count or until")
        return self


class ReservedDevice(BaseModel):
    host: str
    uuid: str
    model: str
    simulated: bool


class ReservationOut(BaseModel):
    """`series` is shared by those of a recurring one; a request may name it as well as the `id`."""

    id: UUID
    series: UUID | None
    state: ReservationState
    starts_at: datetime
    ends_at: datetime
    owner: str
    workspace: str
    nodes: int
    gpus: int
    cpu_milli: int
    memory_bytes: int
    devices: list[ReservedDevice]
    created_at: datetime
    cancelled_at: datetime | None


class ReservationsCreated(BaseModel):
    """All that were asked for, in the order of time."""

    items: list[ReservationOut]
