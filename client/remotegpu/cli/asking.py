"""The options of commands that ask for GPUs, and what they mean to the platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from remotegpu.cli.units import parse_duration, parse_memory
from remotegpu.options import RunOptions, SchedulingOptions, given

_ASKING = "What it may run on"
_QUEUEING = "How it is queued"

Gpus = Annotated[str, typer.Option("--gpus", help="How many GPUs; 0.46 is that share of one, 0 is none.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="On so many hosts, the GPUs on each of them.")]
Within = Annotated[
    str | None,
    typer.Option("--within", help="The host label whose value all hosts must share, as rack.", rich_help_panel=_ASKING),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--gpu-model", help="For example A100 or A100-80GB; several, repeated or A100,H100: any of them."),
]
GpuMemory = Annotated[
    str | None, typer.Option("--gpu-memory", help="Memory of each GPU at least, as 40GB.", rich_help_panel=_ASKING)
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="A condition on the host's labels, repeated for more: region=eu, region!=us, nvlink, '!spot', "
        "'zone in (a,b)', 'zone notin (a)', 'mem>40'.",
        rich_help_panel=_ASKING,
    ),
]
Driver = Annotated[
    str | None, typer.Option("--driver", help="The host's driver at least, as 550.54.", rich_help_panel=_ASKING)
]
Cuda = Annotated[
    str | None, typer.Option("--cuda", help="What the driver supports at least, as 12.4.", rich_help_panel=_ASKING)
]
Apart = Annotated[
    str | None,
    typer.Option("--apart", help="A word: no two requests that have it share a host.", rich_help_panel=_ASKING),
]
Priority = Annotated[
    int | None, typer.Option("--priority", help="Higher goes first; 0 by default.", rich_help_panel=_QUEUEING)
]
Preemptible = Annotated[
    bool | None,
    typer.Option(
        "--preemptible/--not-preemptible", help="It may give way to a higher claim.", rich_help_panel=_QUEUEING
    ),
]
MinRuntime = Annotated[
    str | None,
    typer.Option("--min-runtime", help="It does not give way before, as 30m.", rich_help_panel=_QUEUEING),
]
TimeLimit = Annotated[
    str | None, typer.Option("--time-limit", help="It is ended after that, as 2h.", rich_help_panel=_QUEUEING)
]
InReservation = Annotated[
    str | None,
    typer.Option("--reservation", help="Id of the reservation, or series, to start in.", rich_help_panel=_QUEUEING),
]
Workspace = Annotated[
    str | None,
    typer.Option("--workspace", help="By default, your customer's default one.", rich_help_panel=_QUEUEING),
]
Group = Annotated[
    str | None,
    typer.Option("--capacity-group", help="The capacity group it is charged to.", rich_help_panel=_QUEUEING),
]


def models(texts: Sequence[str] | None) -> list[str]:
    """Of repeated options and lists with commas."""
    return [model.strip() for text in texts or () for model in text.split(",") if model.strip()]


def run_options(
    *,
    priority: int | None,
    preemptible: bool | None,
    min_runtime: str | None,
    time_limit: str | None,
    reservation: str | None,
    capacity_group: str | None,
) -> RunOptions:
    """Those that were given."""
    found: dict[str, Any] = {  # Any: the values of RunOptions
        "priority": priority,
        "preemptible": preemptible,
        "min_runtime_s": parse_duration(min_runtime),
        "time_limit_s": parse_duration(time_limit),
        "reservation": reservation,
        "capacity_group": capacity_group,
    }
    return cast(RunOptions, given(found))


def scheduling_options(
    run: RunOptions,
    *,
    milli: int | None,
    gpu_model: Sequence[str] | None,
    gpu_memory: str | None,
    label: Sequence[str] | None,
    driver: str | None,
    cuda: str | None,
    apart: str | None,
) -> SchedulingOptions:
    """With `run`; those that were given."""
    found: dict[str, Any] = {  # Any: the values of SchedulingOptions
        "gpu_milli": milli,
        "gpu_models": models(gpu_model) or None,
        "gpu_memory_bytes": parse_memory(gpu_memory),
        "selectors": list(label or ()) or None,
        "driver": driver,
        "cuda": cuda,
        "apart": apart,
    }
    return cast(SchedulingOptions, {**run, **given(found)})
