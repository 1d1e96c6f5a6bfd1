"""A task as people write it, in YAML or JSON.

Sizes, durations and arrays stay the text that was written; properties give them in bytes, seconds and indices.
Everything that is wrong with a document is told at once, and an unknown key with the known one that was meant.
"""

import math
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api.allocations.request import (
    MAX_ALTERNATIVES,
    MAX_NODES,
    MAX_PRIORITY,
    MAX_SELECTORS,
    LabelName,
    ModelName,
    SelectorText,
)
from api.tasks import fields, units
from api.tasks.array import MAX_ELEMENTS, Array, parse_array
from api.tasks.graph import Condition
from api.tasks.mistakes import explain
from scheduler.money import MILLI_PER_GPU

RAY_TOKEN = "RAY_AUTH_TOKEN"
RAY_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_MODE", RAY_TOKEN)
"""What a task with a Ray of its own is told about it."""


class Section(BaseModel):
    """A part of the document: unknown keys are refused, and what was read stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(Section):
    """What the task needs, on each of its nodes."""

    gpus: fields.Gpus = Field(
        1, description="Whole GPUs, or a share of one; 0: CPU and memory alone, which is not charged", examples=[2, 0.5]
    )
    gpu_model: Annotated[list[ModelName], Field(max_length=MAX_ALTERNATIVES), fields.OneOrMany()] = Field(
        [], description="Models that will do; none named: any", examples=[["A100", "H100"], "A100"]
    )
    cpus: fields.Cpus | None = Field(
        None, description="Cores, in thousandths at the finest; default: a share for each GPU, or 1", examples=[8, 0.5]
    )
    memory: fields.Memory | None = Field(
        None,
        description="KB MB GB TB are powers of ten, KiB MiB GiB TiB of two; default: a share for each GPU, or 4GiB",
    )
    shm: fields.SharedMemory | None = Field(None, description="/dev/shm, part of `memory`; default: half of it")
    labels: dict[LabelName, fields.LabelValue] = Field(
        {}, max_length=MAX_SELECTORS, description="Labels that its hosts must have", examples=[{"region": "eu"}]
    )
    selectors: list[SelectorText] = Field(
        [], max_length=MAX_SELECTORS, description="Other conditions on its hosts' labels", examples=[["!spot"]]
    )

    @field_validator("gpu_model")
    @classmethod
    def _of_a_gpu(cls, models: list[str], info: ValidationInfo) -> list[str]:
        if models and info.data.get("gpus") == 0:
            raise ValueError("there is no GPU (`gpus` is 0) that could be of a model")
        return models

    @field_validator("shm")
    @classmethod
    def _within_memory(cls, shm: str | None, info: ValidationInfo) -> str | None:
        memory = info.data.get("memory")
        if shm and memory and units.size_bytes(shm) > units.size_bytes(memory):
            raise ValueError(f"{shm} is more than the memory, {memory}, that it is part of")
        return shm

    @field_validator("selectors")
    @classmethod
    def _with_labels(cls, selectors: list[str], info: ValidationInfo) -> list[str]:
        if len(selectors) + len(info.data.get("labels", {})) > MAX_SELECTORS:
            raise ValueError(f"with `labels` there may be {MAX_SELECTORS}")
        return selectors

    @property
    def conditions(self) -> list[str]:
        """`labels` and `selectors` together, as selectors."""
        return [*(f"{name}={value}" for name, value in self.labels.items()), *self.selectors]

    @property
    def whole_gpus(self) -> int:
        """Devices on each node."""
        return math.ceil(self.gpus)

    @property
    def gpu_milli(self) -> int:
        """Thousandths of each device."""
        return min(units.milli(self.gpus) or MILLI_PER_GPU, MILLI_PER_GPU)

    @property
    def cpu_milli(self) -> int | None:
        return None if self.cpus is None else units.milli(self.cpus)

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else units.size_bytes(self.memory)

    @property
    def shm_bytes(self) -> int | None:
        return None if self.shm is None else units.size_bytes(self.shm)


class Mount(Section):
    """A volume in the container. A volume lies on one host, and the task runs there."""

    volume: fields.Name = Field(description="The volume's name", examples=["data"])
    path: fields.MountPath = Field(description="Where it is in the container", examples=["/data"])


class RetryCause(StrEnum):
    PREEMPTED = "preempted"
    HOST_LOST = "host_lost"
    ERROR = "error"  # the command or setup failed, or ran out of memory


class Retry(Section):
    """When it is tried again. Running out of time and being cancelled are no reasons to."""

    max: Annotated[fields.Whole, Field(ge=0, le=100)] = Field(
        3, description="Attempts after the first, at most; giving way costs none"
    )
    on: list[RetryCause] = Field(
        [RetryCause.PREEMPTED, RetryCause.HOST_LOST], max_length=3, description="After what it is tried again"
    )
    backoff: fields.Pause = Field("10s", description="How long it waits before it is queued again after an error")

    @property
    def backoff_s(self) -> int:
        return units.duration_s(self.backoff)


class CheckpointSignal(StrEnum):
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGHUP = "SIGHUP"
    SIGUSR1 = "SIGUSR1"
    SIGUSR2 = "SIGUSR2"


class Checkpoint(Section):
    """How it is told that it has to give way, and how long it then has."""

    signal: CheckpointSignal = Field(CheckpointSignal.SIGTERM, description="Sent to the command's processes")
    grace: fields.Grace = Field("30s", description="From the signal to the end, unless it says earlier that it is done")

    @property
    def grace_s(self) -> int:
        return units.duration_s(self.grace)


class Dependency(Section):
    """A task that has to end first; its name alone means that it has to succeed."""

    task: fields.Name = Field(description="Its name, in the same submission or among the workspace's tasks")
    condition: Condition = Field(
        Condition.SUCCEEDED, description="`failed`: in an error or out of time; `finished`: in whatever way"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"task": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(schema))
        either: list[dict[str, Any]] = [whole["properties"]["task"], dict(whole)]  # Any: JSON
        whole.clear()
        whole["anyOf"] = either
        return whole


class TaskSpec(Section):
    """A command that runs to its end, on rented GPUs or without any."""

    name: fields.Name = Field(description="A DNS label; others name it in `depends_on`", examples=["train-resnet"])
    image: fields.ImageName = Field(description="Name of an image of the catalogue", examples=["base"])
    resources: Resources = Field(default_factory=Resources, description="What it needs, on each of its nodes")
    disconnect: fields.Disconnect = Field(
        "60s", description="How long it may run cut off from the platform; then its host stops it"
    )
    nodes: Annotated[fields.Whole, Field(ge=1, le=MAX_NODES)] = Field(
        1, description="Hosts: one container on each, started together"
    )
    ray: fields.Flag = Field(
        False, description="A Ray of its own spans the nodes; the command runs on the first alone, and finds it"
    )
    working_dir: fields.Directory | None = Field(
        None, description="A folder, relative to the file, that is uploaded and is the command's", examples=["."]
    )
    env: dict[fields.VariableName, fields.VariableValue] = Field(
        {}, max_length=256, description="Environment variables", examples=[{"EPOCHS": "3"}]
    )
    secrets: list[fields.VariableName] = Field(
        [], max_length=64, description="Names of secrets of the workspace, given as variables and files"
    )
    setup: fields.ShellText | None = Field(
        None, description="Shell command before the command", examples=["pip install -r requirements.txt"]
    )
    command: fields.ShellText = Field(
        description="Shell command; its exit code is the task's", examples=["python x.py"]
    )
    mounts: list[Mount] = Field([], max_length=16, description="Volumes in the container")
    priority: Annotated[fields.Whole, Field(ge=0, le=MAX_PRIORITY)] = Field(
        0, description="At most your customer's ceiling; higher goes first"
    )
    preemptible: fields.Flag = Field(False, description="It may be ended for a request with a higher claim")
    retry: Retry = Field(default_factory=Retry, description="When it is tried again")
    timeout: fields.Timeout | None = Field(
        None, description="How long an attempt, or an array's element, may take; default: no limit", examples=["6h"]
    )
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="How it is told that it has to give way")
    depends_on: list[Dependency] = Field([], max_length=100, description="Tasks that have to end first")
    array: fields.ArrayText | None = Field(
        None, description=f"Indices of its elements, at most {MAX_ELEMENTS}; `%5`: at most five of them at once"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise explain(error, cls) from None

    @field_validator("env")
    @classmethod
    def _of_a_process(cls, env: dict[str, str]) -> dict[str, str]:
        size = sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
        if size > fields.MAX_ENV_BYTES:
            raise ValueError(f"{size} bytes in all; a process takes {fields.MAX_ENV_BYTES} here")
        return env

    @field_validator("secrets")
    @classmethod
    def _named_once(cls, secrets: list[str], info: ValidationInfo) -> list[str]:
        for place, name in enumerate(secrets):
            if name in secrets[:place]:
                raise ValueError(f"{name!r} is named twice")
            if name in info.data.get("env", {}):
                raise ValueError(f"{name!r} is in `env` as well")
        return secrets

    @field_validator("env", "secrets")
    @classmethod
    def _not_of_its_ray(cls, given: dict[str, str] | list[str], info: ValidationInfo) -> dict[str, str] | list[str]:
        taken = [name for name in RAY_VARIABLES if info.data.get("ray") and name in given]
        if taken:
            raise ValueError(f"with `ray` the platform sets {', '.join(taken)}")
        return given

    @field_validator("mounts")
    @classmethod
    def _apart(cls, mounts: list[Mount]) -> list[Mount]:
        paths = [mount.path for mount in mounts]
        for place, path in enumerate(paths):
            if path in paths[:place]:
                raise ValueError(f"two volumes are mounted at {path}")
        return mounts

    @field_validator("depends_on")
    @classmethod
    def _each_once(cls, parents: list[Dependency], info: ValidationInfo) -> list[Dependency]:
        names = [parent.task for parent in parents]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValueError(f"{name!r} is named twice")
            if name == info.data.get("name"):
                raise ValueError(f"{name!r} can't wait for itself")
        return parents

    @property
    def disconnect_s(self) -> int:
        return units.duration_s(self.disconnect)

    @property
    def timeout_s(self) -> int | None:
        return None if self.timeout is None else units.duration_s(self.timeout)

    @property
    def volumes(self) -> list[str]:
        """The names of those that it mounts."""
        return [mount.volume for mount in self.mounts]

    @property
    def elements(self) -> Array | None:
        return None if self.array is None else parse_array(self.array)
