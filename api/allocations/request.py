"""What may be asked of the scheduler: the fields that everything which takes GPUs has in common."""

from collections.abc import Sequence
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from scheduler.demand import Demand, Selector, Version
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.shape import Shape
from scheduler.selectors import parse

MAX_GPUS = 64
MAX_NODES = 64
MAX_CPU_MILLI = 1_024_000
MAX_BYTES = 2**50
MAX_PRIORITY = 1000
MAX_SECONDS = 366 * 86_400
MAX_ALTERNATIVES = 16
MAX_SELECTORS = 16


def _selectors_are_understood(text: str) -> str:
    parse(text)
    return text


ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$"),
    Field(description="Words of the model's name; any device with all of them will do", examples=["A100"]),
]
SelectorText = Annotated[
    str,
    StringConstraints(max_length=500),
    AfterValidator(_selectors_are_understood),
    Field(
        description="A condition on the host's labels, or several joined by commas: `region=eu`, `region!=us`, "
        "`zone in (a,b)`, `zone notin (a)`, `nvlink`, `!spot`, `mem>40`, `mem<80`",
        examples=["region=eu"],
    ),
]
VersionText = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}$"), Field(examples=["12.4", "550.54.15"])
]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
_Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]


class RunOptions(BaseModel):
    """How a request is queued, and when it gives way. Another start of the same thing may have others."""

    priority: int = Field(0, ge=0, le=MAX_PRIORITY, description="At most your customer's ceiling; higher goes first")
    preemptible: bool = Field(False, description="It may be ended for a request with a higher claim")
    min_runtime_s: int = Field(0, ge=0, le=MAX_SECONDS, description="Seconds before which it is not preempted")
    time_limit_s: _Seconds | None = Field(None, description="Seconds after which it is ended; null: no limit")
    reservation: UUID | None = Field(
        None, description="It starts in this advance reservation, or in the next one of this series, and nowhere else"
    )
    capacity_group: Word | None = Field(None, description="The capacity group of your customer that it is charged to")


class SchedulingOptions(RunOptions):
    """With what it may run on."""

    gpu_models: list[ModelName] = Field([], max_length=MAX_ALTERNATIVES, description="Alternatives; empty: any model")
    gpu_milli: int = Field(
        MILLI_PER_GPU, ge=1, le=MILLI_PER_GPU, description="Thousandths of each GPU; below 1000, of a single one"
    )
    gpu_memory_bytes: int = Field(0, ge=0, le=MAX_BYTES, description="Memory of each GPU, at least")
    selectors: list[SelectorText] = Field([], max_length=MAX_SELECTORS, description="All must hold for the host")
    driver: VersionText | None = Field(None, description="The host's NVIDIA driver, at least")
    cuda: VersionText | None = Field(None, description="The CUDA version that the driver supports, at least")
    apart: Word | None = Field(None, description="No two requests of your customer with this word share a host")


class ResourceRequest(SchedulingOptions):
    """With how much it needs on a host."""

    gpus: int = Field(ge=0, le=MAX_GPUS, description="0: CPU and memory alone")
    gpu_model: ModelName | None = Field(None, description="The same as `gpu_models` with this one")
    cpu_milli: int | None = Field(None, ge=100, le=MAX_CPU_MILLI, description="Default: a share for each GPU, or 1000")
    memory_bytes: int | None = Field(
        None, ge=2**28, le=MAX_BYTES, description="Default: a share for each GPU, or 4 GiB"
    )
    disk_bytes: int | None = Field(None, ge=2**28, le=MAX_BYTES)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.gpu_milli < MILLI_PER_GPU and self.gpus > 1:
            raise ValueError(f"gpu_milli: a share is of one GPU; with {self.gpus} GPUs each must be whole")
        if self.gpu_model is not None and self.gpu_models:
            raise ValueError("give gpu_model or gpu_models, not both")
        if not self.gpus:
            self._asks_nothing_of_gpus()
        return self

    def _asks_nothing_of_gpus(self) -> None:
        asked = {
            "gpu_model": self.gpu_model is not None,
            "gpu_models": bool(self.gpu_models),
            "gpu_milli": self.gpu_milli < MILLI_PER_GPU,
            "gpu_memory_bytes": self.gpu_memory_bytes > 0,
        }
        if names := [name for name, given in asked.items() if given]:
            raise ValueError(f"{' and '.join(names)}: it asks for no GPU (gpus: 0) that this could be said of")

    @property
    def scheduling(self) -> SchedulingOptions:
        """The options alone, in the form in which they are kept."""
        given = self.model_dump(include=set(SchedulingOptions.model_fields))
        if self.gpu_model is not None:
            given["gpu_models"] = [self.gpu_model]
        return SchedulingOptions(**given)


def conditions(texts: Sequence[str]) -> tuple[Selector, ...]:
    return tuple(selector for text in texts for selector in parse(text))


def version(text: str | None) -> Version:
    """Of a `VersionText`."""
    return tuple(int(part) for part in text.split(".")) if text else ()


def demand_of(
    options: SchedulingOptions,
    *,
    gpus: int,
    cpu_milli: int,
    memory_bytes: int,
    nodes: int = 1,
    within: str | None = None,
    bound_host_id: int | None = None,
    image: str = "",
) -> Demand:
    """What the scheduler is asked for. `gpus`, CPU and memory are of each host; `image` is the image's reference."""
    return Demand(
        shape=Shape(cpu_milli=cpu_milli, memory_bytes=memory_bytes, gpus=gpus, milli=options.gpu_milli),
        nodes=nodes,
        models=tuple(options.gpu_models),
        gpu_memory_bytes=options.gpu_memory_bytes,
        selectors=conditions(options.selectors),
        driver=version(options.driver),
        cuda=version(options.cuda),
        bound_host_id=bound_host_id,
        apart=options.apart,
        within=within,
        image=image,
    )
