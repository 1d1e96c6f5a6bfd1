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
    """Why something waits: a stable code, a sentence, its place in the queue, and when it may start.

    `eta_basis` says what `eta` rests on: "reservation" or "limits" hold, "estimate" and "history" may be wrong;
    "unknown" has no `eta`.
    """

    code: str
    detail: str
    position: int | None = None
    figures: dict[str, int] | None = None
    eta: datetime | None = None
    eta_basis: str = "unknown"


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
    price_terms: str | None = None
    price_kept_until: datetime | None = None


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
    gpu_milli: int = 1000
    gpu_models: list[str] = []
    gpu_memory_bytes: int = 0
    selectors: list[str] = []
    driver: str | None = None
    cuda: str | None = None
    apart: str | None = None
    priority: int = 0
    preemptible: bool = False
    min_runtime_s: int = 0
    time_limit_s: int | None = None
    reservation: str | None = None
    capacity_group: str | None = None


class PlannedHost(msgspec.Struct, frozen=True):
    host: str
    devices: list[AllocatedDevice] = []


class PlannedCost(msgspec.Struct, frozen=True):
    """At the price of now, on the request's terms. `micro_for_limit` is for the whole time limit, None without one;
    `kept_for_s` None: the price stays to its end."""

    gpu_model: str
    currency: str
    price_micro_per_gpu_hour: int
    micro_per_hour: int
    micro_for_limit: int | None = None
    terms: str = "on_demand"
    kept_for_s: int | None = None


class PlannedLimit(msgspec.Struct, frozen=True):
    """Quota or balance that stands against it now."""

    code: str
    detail: str


class Plan(msgspec.Struct, frozen=True):
    """When and where a request would start: `when` is "now", "later" (at `eta`), "unknown" or "never"."""

    when: str
    wait: Wait | None = None
    eta: datetime | None = None
    hosts: list[PlannedHost] = []
    costs: list[PlannedCost] = []
    limits: list[PlannedLimit] = []


class TaskProgress(msgspec.Struct, frozen=True):
    """What a task has told of itself: how far it is, from 0 to 1, and a line."""

    fraction: float | None = None
    line: str = ""


class Dependency(msgspec.Struct, frozen=True):
    """A task that has to end first, and how."""

    task_id: str
    name: str
    condition: str
    state: str


class Attempt(msgspec.Struct, frozen=True):
    """A try to run a task. `end` says why it ended, `signal` what ended its command, `limit_hit` which limit it met."""

    number: int
    state: str
    phase: str = ""
    host: str | None = None
    devices: list[AllocatedDevice] = []
    end: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    limit_hit: str | None = None
    detail: str = ""
    notice: str = ""
    started_at: datetime | None = None
    running_at: datetime | None = None
    ended_at: datetime | None = None


class TaskEvent(msgspec.Struct, frozen=True):
    at: datetime
    actor: str
    to_state: str
    from_state: str | None = None
    reason: str = ""


class ElementCounts(msgspec.Struct, frozen=True):
    """Of an array: how many elements wait, also to be tried again, how many are with a worker, and have ended."""

    total: int
    pending: int
    running: int
    succeeded: int
    failed: int


class Element(msgspec.Struct, frozen=True, kw_only=True):
    """An element of an array that has started. Its output is from `log_from` to `log_to` in that of the attempt."""

    index: int
    state: str
    tries: int
    attempt: int
    end: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    log_from: int | None = None
    log_to: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    due_at: datetime | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts` counts those that have begun; `detail` says why it is in its state, `wait` why it waits.

    `gpus` are those on each of `nodes` hosts, `gpu_milli` the thousandths of each; it is queued again at `due_at`.
    """

    id: str
    name: str
    state: str
    created_at: datetime
    image: str = ""
    owner: str = ""
    workspace: str = ""
    submission_id: str | None = None
    detail: str = ""
    gpus: int = 1
    gpu_milli: int = 1000
    nodes: int = 1
    priority: int = 0
    attempts: int = 0
    exit_code: int | None = None
    progress: TaskProgress | None = None
    elements: ElementCounts | None = None
    host: str | None = None
    wait: Wait | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled", "timed_out")

    @property
    def phase(self) -> str:
        """What its host does while it starts, where that is known."""
        return ""


class TaskDetail(Task, frozen=True, kw_only=True):
    """With its document and its history: attempts, steps, and what it waits for."""

    spec: dict[str, Any] = {}
    working_dir: str | None = None
    retried_from: str | None = None
    allocation_id: str | None = None
    attempt_list: list[Attempt] = []
    events: list[TaskEvent] = []
    dependencies: list[Dependency] = []

    @property
    def phase(self) -> str:
        return self.attempt_list[-1].phase if self.attempt_list else ""


class TaskPlan(msgspec.Struct, frozen=True):
    """When and where a task would start, and what an attempt costs at most: None without a timeout."""

    name: str
    plan: Plan
    ceiling_micro: int | None = None
    currency: str | None = None
    depends_on: list[str] = []


class LogRecord(msgspec.Struct, frozen=True):
    """Output at a position in bytes: `text` of `stream` ("stdout" or "stderr"), or how many bytes were `dropped`."""

    position: int
    at: datetime | None = None
    stream: str | None = None
    text: str | None = None
    dropped: int | None = None


class LogBatch(msgspec.Struct, frozen=True):
    """Output of one attempt, None as long as there is none; reading goes on from `next_position`, until `ended`."""

    attempt: int | None
    records: list[LogRecord]
    next_position: int
    ended: bool = False


class Secret(msgspec.Struct, frozen=True):
    """What is shown of a secret: everything but its value."""

    name: str
    created_at: datetime
    updated_at: datetime


class Volume(msgspec.Struct, frozen=True):
    """A named folder that lies on one host, None until it is used."""

    id: str
    name: str
    size_bytes: int
    created_at: datetime
    workspace: str = ""
    owner: str = ""
    host: str | None = None
    delete_at: datetime | None = None  # it is being deleted since


class ReservedDevice(msgspec.Struct, frozen=True):
    host: str
    uuid: str
    model: str
    simulated: bool


class Reservation(msgspec.Struct, frozen=True):
    """GPUs set aside from `starts_at` to `ends_at`. Those of a recurring one share `series`."""

    id: str
    state: str
    starts_at: datetime
    ends_at: datetime
    nodes: int
    gpus: int
    cpu_milli: int
    memory_bytes: int
    created_at: datetime
    devices: list[ReservedDevice] = []
    owner: str = ""
    workspace: str = ""
    series: str | None = None
    cancelled_at: datetime | None = None


class Reserved(msgspec.Struct, frozen=True):
    """All times of a new reservation."""

    items: list[Reservation]


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
    credit_limit_micro: int = 0


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
