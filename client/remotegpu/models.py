"""What the API answers, as typed values. Unknown fields are ignored, so that a newer platform still works.

Money is in micro-units of the currency, memory in bytes, CPU in milli-cores, durations in milliseconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class Tokens(msgspec.Struct, frozen=True):
    access_token: str
    refresh_token: str
    expires_in: int
    must_change_password: bool = False


class CustomerName(msgspec.Struct, frozen=True):
    id: str
    name: str


class Me(msgspec.Struct, frozen=True):
    id: str
    username: str
    role: str
    email: str | None = None
    display_name: str = ""
    customer: CustomerName | None = None
    must_change_password: bool = False


class Wait(msgspec.Struct, frozen=True):
    """Why an environment waits: a stable code, a sentence, and its place in the queue."""

    code: str
    detail: str
    position: int | None = None


class AllocatedDevice(msgspec.Struct, frozen=True):
    uuid: str
    model: str
    milli: int
    simulated: bool


class EnvironmentAllocation(msgspec.Struct, frozen=True):
    id: str
    state: str
    devices: list[AllocatedDevice] = []
    host: str | None = None
    run_until: datetime | None = None
    price_micro_per_gpu_hour: int | None = None


class Environment(msgspec.Struct, frozen=True):
    id: str
    name: str
    image: str
    gpus: int
    gpu_model: str | None
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    desired: str
    observed: str
    url: str
    created_at: datetime
    owner: str = ""
    workspace: str = ""
    allocation: EnvironmentAllocation | None = None
    wait: Wait | None = None
    last_error: str | None = None


class GpuOffer(msgspec.Struct, frozen=True):
    """A GPU model that may be rented, and how many are free now."""

    gpu_model: str
    memory_bytes: int
    total: int
    free: int
    simulated: bool
    price_micro_per_gpu_hour: int | None = None
    currency: str | None = None


class Image(msgspec.Struct, frozen=True):
    id: str
    name: str
    framework: str
    version: str
    reference: str
    description: str = ""
    cuda: str | None = None
    enabled: bool = True


class Balance(msgspec.Struct, frozen=True):
    currency: str
    balance_micro: int
    held_micro: int
    available_micro: int


class ApiKey(msgspec.Struct, frozen=True):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    key: str | None = None  # in the reply to its creation only


Json = dict[str, Any]  # what the API answers where a typed model would add nothing
