"""Environments as the public API shows and takes them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from scheduler.states import AllocationState, EnvironmentDesired, EnvironmentState

MAX_GPUS = 64
MAX_CPU_MILLI = 1_024_000
MAX_BYTES = 2**50

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"),
    Field(description="A DNS label of at most 32 characters, unique among its owner's environments", examples=["lab"]),
]
ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$"),
    Field(description="Words of the model's name; any device with all of them will do", examples=["A100"]),
]


class EnvironmentCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    image: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    gpus: int = Field(ge=1, le=MAX_GPUS)
    gpu_model: ModelName | None = None
    cpu_milli: int | None = Field(None, ge=100, le=MAX_CPU_MILLI, description="Default: a share for each GPU")
    memory_bytes: int | None = Field(None, ge=2**28, le=MAX_BYTES, description="Default: a share for each GPU")
    disk_bytes: int | None = Field(None, ge=2**28, le=MAX_BYTES)
    workspace: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")] | None = Field(
        None, description="Name of a workspace of the customer; default: the default one"
    )


class DeviceOut(BaseModel):
    uuid: str
    model: str
    milli: int
    simulated: bool


class WaitOut(BaseModel):
    """Why it waits: a stable code, a sentence, and its place in the queue."""

    code: str
    detail: str
    position: int | None = None


class AllocationOut(BaseModel):
    id: UUID
    state: AllocationState
    devices: list[DeviceOut]
    host: str | None
    run_until: datetime | None
    price_micro_per_gpu_hour: int | None


class EnvironmentOut(BaseModel):
    id: UUID
    name: str
    owner: str
    workspace: str
    image: str
    gpus: int
    gpu_model: str | None
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    desired: EnvironmentDesired
    observed: EnvironmentState
    allocation: AllocationOut | None
    wait: WaitOut | None
    url: str
    last_error: str | None
    created_at: datetime
