"""Tasks as the public API shows and takes them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.allocations.plan_schemas import PlanOut
from api.environments.schemas import DeviceOut, WaitOut
from api.tasks.graph import Condition
from api.tasks.spec import TaskSpec
from scheduler.states import AttemptEnd, AttemptState, TaskState

MAX_TASKS = 100  # of one submission

Digest = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="SHA-256 of an uploaded zip archive")
]
SubmissionId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"),
    Field(description="Your own name for it, unique among your customer's tasks"),
]


class TaskSubmit(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task: TaskSpec
    working_dir: Digest | None = None
    submission_id: SubmissionId | None = None


class TasksSubmit(BaseModel):
    """Tasks that are accepted together, or not at all. They may depend on each other by their names."""

    model_config = ConfigDict(extra="forbid")

    workspace: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")] | None = Field(
        None, description="Name of a workspace of the customer; default: the default one"
    )
    tasks: list[TaskSubmit] = Field(min_length=1, max_length=MAX_TASKS)


class ProgressOut(BaseModel):
    """What the task says of itself. `fraction` is from 0 to 1."""

    fraction: float | None
    line: str
    at: datetime


class ElementsOut(BaseModel):
    """How many elements of an array wait (also to be tried again), are with a worker, and have ended."""

    total: int
    pending: int
    running: int
    succeeded: int
    failed: int


class ElementOut(BaseModel):
    """An element that a worker was given. Its output is from `log_from` to `log_to` in that of the attempt."""

    index: int
    state: TaskState
    tries: int = Field(description="Those that count against `retry.max`")
    attempt: int
    end: AttemptEnd | None
    exit_code: int | None
    signal: int | None
    log_from: int | None
    log_to: int | None
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None = Field(description="It is tried again then")


class TaskOut(BaseModel):
    """`detail` is why it is in this state, `wait` why it waits for devices. `due_at`: it is queued again then."""

    id: UUID
    name: str
    owner: str
    workspace: str
    image: str
    submission_id: str | None
    state: TaskState
    detail: str
    gpus: int
    gpu_milli: int
    nodes: int
    priority: int
    attempts: int
    exit_code: int | None
    progress: ProgressOut | None
    elements: ElementsOut | None = Field(description="Of an array")
    host: str | None
    wait: WaitOut | None
    due_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class AdminTaskOut(TaskOut):
    customer: str


class AttemptOut(BaseModel):
    """One try. `end` says why it ended, and `notice` how it was told that it has to give way, or why it was not."""

    id: UUID
    number: int
    state: AttemptState
    phase: str = Field(description="What its host does while it starts: fetching, pulling, setting_up")
    allocation_id: UUID
    host: str | None
    devices: list[DeviceOut]
    end: AttemptEnd | None
    exit_code: int | None
    signal: int | None
    limit_hit: str | None
    detail: str
    notice: str
    started_at: datetime
    running_at: datetime | None
    stopping_at: datetime | None
    ended_at: datetime | None


class TaskEventOut(BaseModel):
    at: datetime
    actor: str
    from_state: TaskState | None
    to_state: TaskState
    reason: str


class DependencyOut(BaseModel):
    task_id: UUID
    name: str
    condition: Condition
    state: TaskState


class TaskDetail(TaskOut):
    """With its document, and all that has happened to it: the last attempts and events, in their order."""

    spec: dict[str, Any] = Field(description="The document as it was given")  # Any: JSON
    working_dir: str | None
    retried_from: UUID | None
    allocation_id: UUID | None
    attempt_list: list[AttemptOut]
    dependencies: list[DependencyOut]
    events: list[TaskEventOut]


class TasksOut(BaseModel):
    tasks: list[TaskOut]


class TaskPlan(BaseModel):
    """`ceiling_micro` is what an attempt, or a try of each element, costs that takes its whole timeout; null: it has
    none. Without GPUs: 0."""

    name: str
    plan: PlanOut
    currency: str | None
    ceiling_micro: int | None
    depends_on: list[str]


class TasksPlan(BaseModel):
    tasks: list[TaskPlan]
