"""Limits of quotas as people type and read them: `gpus=8`, `H100=4`, `memory=512GiB`, `lease=12h`, `month=500.00`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import typer

from remotegpu.cli.units import duration, memory, money, parse_cpus, parse_duration, parse_memory, parse_money
from remotegpu.models import Json


def _count(text: str) -> int:
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number; write for example 4")
    return int(text)


def _cpus(text: str) -> int:
    try:
        return parse_cpus(float(text)) or 0
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no number of CPUs; write for example 64") from error


@dataclass(frozen=True)
class _Kind:
    """`field` is its name in the API."""

    field: str
    title: str
    parse: Callable[[str], int | None] = _count
    show: Callable[[int], str | None] = str


_KINDS = {
    "gpus": _Kind("gpus", "GPUs"),
    "cpus": _Kind("cpu_milli", "CPUs", _cpus, lambda milli: f"{milli / 1000:g}"),
    "memory": _Kind("memory_bytes", "memory", parse_memory, memory),
    "running": _Kind("allocations", "running at once"),
    "tasks": _Kind("tasks", "tasks running at once"),
    "lease": _Kind("lease_s", "longest lease", parse_duration, duration),
    "queued": _Kind("queued", "waiting"),
    "environments": _Kind("environments", "environments"),
    "array": _Kind("array_elements", "elements of an array"),
    "volumes": _Kind("volumes", "volumes"),
    "volume-size": _Kind("volume_bytes", "size of all volumes", parse_memory, memory),
    "month": _Kind("month_micro", "spent in a month", parse_money, money),
}
_OF_FIELD = {kind.field: kind for kind in _KINDS.values()}
NAMES = ", ".join(_KINDS)


def changed(now: Json, given: Sequence[str]) -> Json:
    """All limits: those of `now`, with what is given as `NAME=VALUE`, where an empty value takes the limit away.

    A name that is none of `NAMES` in small letters is of a GPU model.

    Raises:
        typer.BadParameter: something given is no limit.
    """
    limits: Json = {field: now.get(field) for field in _OF_FIELD}
    models = dict(now.get("gpu_models") or {})
    for each in given:
        name, separator, value = each.partition("=")
        if not separator or not name or not (name in _KINDS or _may_be_a_model(name)):
            raise typer.BadParameter(f"{each!r}: write NAME=VALUE, with one of {NAMES} or a GPU model such as H100")
        if name in _KINDS:
            kind = _KINDS[name]
            limits[kind.field] = kind.parse(value) if value else None
        elif value:
            models[name] = _count(value)
        else:
            models.pop(name, None)
    return {**limits, "gpu_models": models}


def _may_be_a_model(name: str) -> bool:
    """A mistyped name of a limit is none: it has small letters alone."""
    return name != name.lower() or any(map(str.isdecimal, name))


def rows(effective: Sequence[Json]) -> list[tuple[object, ...]]:
    """What is limited or used: what it is, how much is used, the limit, and whose it is."""
    return [_row(line) for line in effective if line["most"] is not None or line["used"]]


def said(limits: Json) -> str:
    """All limits that somebody has, in one line."""
    named = [f"{kind.title} {kind.show(limits[field])}" for field, kind in _OF_FIELD.items() if _is_set(limits, field)]
    return ", ".join([*named, *(f"{model} {count}" for model, count in limits["gpu_models"].items())]) or "none"


def _is_set(limits: Json, field: str) -> bool:
    return limits.get(field) is not None


def _row(line: Json) -> tuple[object, ...]:
    if line["limit"] == "gpu_models":
        return f"{line['gpu_model']} GPUs", line["used"], line["most"], line["level"]
    kind = _OF_FIELD[line["limit"]]
    used, most = (None if value is None else kind.show(value) for value in (line["used"], line["most"]))
    return kind.title, used, most, line["level"]
