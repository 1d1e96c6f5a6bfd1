"""Machines as administrators see them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from scheduler.states import AdminState, AllocationState, AllocationStatus, DeviceStatus

MAX_TOKEN_S = 30 * 24 * 3600
DAY_S = 24 * 3600

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/ -]{0,62}$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]


class GpuOut(BaseModel):
    """`reading` is the last live reading: what the device does not tell is null, never zero."""

    id: UUID
    index: int
    uuid: str
    model: str
    memory_bytes: int
    pci_bus_id: str | None
    nvlink_peer_uuids: list[str]
    mig_enabled: bool | None
    simulated: bool
    present: bool
    healthy: bool
    reading: dict[str, Any] | None = Field(description="As the host's provider read it; see GpuReading")
    reading_at: datetime | None


class LeaseOut(BaseModel):
    allocation_id: UUID
    customer: str
    state: AllocationState
    generation: int
    gpus: int
    gpu_uuids: list[str]
    run_until: datetime | None


class MachineOut(BaseModel):
    """`device_status` is observed, `admin_state` desired, `allocation_status` derived from the leases."""

    id: UUID
    name: str
    device_status: DeviceStatus
    admin_state: AdminState
    allocation_status: AllocationStatus
    simulated: bool
    address: str | None
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    labels: dict[str, str]
    facts: dict[str, Any] = Field(description="What the host registered; see HostFacts")
    problems: list[str]
    heartbeat_at: datetime | None
    gpus: list[GpuOut]
    leases: list[LeaseOut]
    created_at: datetime


class MachinePatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    admin_state: AdminState | None = None
    labels: Labels | None = Field(None, description="Replaces all of its labels")


class MachineEventOut(BaseModel):
    at: datetime
    actor: str
    kind: str
    from_state: str | None
    to_state: str | None
    reason: str


class EnrolmentTokenIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    description: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{0,200}$")] = ""
    uses: int = Field(1, ge=1, le=1000)
    expires_in_s: int = Field(DAY_S, ge=60, le=MAX_TOKEN_S)
    machine_id: UUID | None = Field(
        None, description="A machine that joins again with it; without, only machines with new names join"
    )


class EnrolmentTokenOut(BaseModel):
    id: UUID
    description: str
    machine_id: UUID | None
    uses_left: int
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class EnrolmentTokenCreated(EnrolmentTokenOut):
    token: str = Field(description="Shown this once: `remotegpud node join --token ...`")
