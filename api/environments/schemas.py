"""Environments as the public API shows and takes them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.allocations.request import ResourceRequest, RunOptions, SchedulingOptions
from scheduler.prices import PriceTerms
from scheduler.states import AllocationState, EnvironmentDesired, EnvironmentState

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"),
    Field(description="A DNS label of at most 32 characters, unique among its owner's environments", examples=["lab"]),
]


class EnvironmentCreate(ResourceRequest):
    model_config = ConfigDict(extra="forbid")

    name: Name
    image: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    workspace: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")] | None = Field(
        None, description="Name of a workspace of the customer; default: the default one"
    )


class EnvironmentStart(RunOptions):
    """What is named replaces what the environment was queued with before."""

    model_config = ConfigDict(extra="forbid")


class DeviceOut(BaseModel):
    uuid: str
    model: str
    milli: int
    simulated: bool


class WaitOut(BaseModel):
    """Why it waits: a stable code, a sentence, its place in the queue, and when it may start.

    `eta_basis` says what `eta` rests on: `reservation` or `limits` hold, `estimate` and `history` may be wrong; with
    `unknown` there is no `eta`.
    """

    code: str
    detail: str
    position: int | None = None
    figures: dict[str, int] | None = None
    eta: datetime | None = None
    eta_basis: str = "unknown"

    @classmethod
    def of(cls, reason: Mapping[str, Any] | None) -> Self:  # Any: JSON that the scheduling loop wrote
        """Of an allocation that is queued."""
        reason = reason or {}
        return cls(
            code=reason.get("code", "queued"),
            detail=reason.get("detail", "It waits for the scheduler to look at it."),
            position=reason.get("position"),
            figures=reason.get("figures"),
            eta=reason.get("eta"),
            eta_basis=reason.get("eta_basis", "unknown"),
        )


class AllocationOut(BaseModel):
    id: UUID
    state: AllocationState
    devices: list[DeviceOut]
    host: str | None
    run_until: datetime | None
    price_micro_per_gpu_hour: int | None = Field(description="What it is charged by, after the discount of its terms")
    price_terms: PriceTerms | None
    price_kept_until: datetime | None = Field(description="null: to its end")


class EnvironmentOut(SchedulingOptions):
    """With the options that it is queued with. `gpu_model` names all of the `gpu_models`."""

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
