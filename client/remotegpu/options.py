"""What a request may ask of the scheduler, beside how many GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class RunOptions(TypedDict, total=False):
    """How it is queued, and when it gives way. A higher priority goes first; seconds end in `_s`."""

    priority: int
    preemptible: bool
    min_runtime_s: int
    time_limit_s: int | None
    reservation: str | None  # the id of one, or of a series
    capacity_group: str | None


class SchedulingOptions(RunOptions, total=False):
    """What it may run on. `selectors` are conditions on the host's labels: "region=eu", "nvlink", "!spot", "mem>40",
    "zone in (a,b)". `gpu_milli` below 1000 is that many thousandths of one GPU. No two requests of a customer with the
    same word in `apart` share a host.
    """

    gpu_models: Sequence[str]
    gpu_milli: int
    gpu_memory_bytes: int
    selectors: Sequence[str]
    driver: str
    cuda: str
    apart: str


def given(body: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """Without what is None: the platform's default."""
    return {key: value for key, value in body.items() if value is not None}
