"""Allocations as the public API shows them."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.environments.schemas import DeviceOut, WaitOut
from scheduler.prices import PriceTerms
from scheduler.states import AllocationState, EndReason


class AllocationSummary(BaseModel):
    """`devices` and `host` are those of the current generation, or of the last one when it has ended."""

    id: UUID
    kind: str
    state: AllocationState
    end_reason: EndReason | None
    end_detail: str | None
    generation: int
    customer_id: UUID
    customer: str
    workspace: str
    user: str
    nodes: int
    gpus: int = Field(description="On each of `nodes` hosts")
    gpu_milli: int
    gpu_model: str | None = Field(description="All of the `gpu_models`, in words")
    gpu_models: list[str]
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    priority: int
    preemptible: bool
    min_runtime_s: int
    time_limit_s: int | None
    capacity_group: str | None
    reservation: UUID | None
    host: str | None
    devices: list[DeviceOut]
    run_until: datetime | None
    price_micro_per_gpu_hour: int | None = Field(description="What it is charged by, after the discount of its terms")
    price_terms: PriceTerms | None
    price_kept_until: datetime | None = Field(description="null: to its end")
    currency: str | None
    wait: WaitOut | None
    queued_at: datetime
    placed_at: datetime | None
    active_at: datetime | None
    checkpoint_at: datetime | None = Field(description="Up to when its work is safe, as it has said itself")
    releasing_at: datetime | None
    released_at: datetime | None


class AllocationEventOut(BaseModel):
    """One step of its life. `actor` names a person, a key, a host or a part of the platform."""

    at: datetime
    actor: str
    from_state: AllocationState | None
    to_state: AllocationState
    reason: str


class AllocationDetail(AllocationSummary):
    events: list[AllocationEventOut] = Field(description="Oldest first, the last 200")


class AllocationEnd(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=500, pattern=r"^[^\x00]*$", description="Shown to the customer")
