"""Metadata of a job: the keys that mean something here. All others are kept and given back, as all are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.ray_jobs.request import Refused

_FLAGS = {"true": True, "false": False}
_WHOLE = ("priority", "nodes")


@dataclass(frozen=True, slots=True)
class Wishes:
    """`fields` of a task's document. `models` are alternatives, empty: any. `workspace` None: the default one."""

    fields: dict[str, Any]  # Any: JSON
    image: str | None = None
    workspace: str | None = None
    models: tuple[str, ...] = ()
    name: str | None = None


def read(given: Mapping[str, str]) -> Wishes:
    """What the metadata asks for: `image`, `priority`, `nodes`, `workspace`, `preemptible`, `timeout`, `gpu_model`.

    Raises:
        Refused: the value of one of them can't be read.
    """
    fields: dict[str, Any] = {name: _whole(name, given[name]) for name in _WHOLE if name in given}
    if "preemptible" in given:
        fields["preemptible"] = _flag("preemptible", given["preemptible"])
    if "timeout" in given:
        fields["timeout"] = given["timeout"]
    models = tuple(model.strip() for model in given.get("gpu_model", "").split(",") if model.strip())
    return Wishes(
        fields,
        image=given.get("image"),
        workspace=given.get("workspace"),
        models=models,
        name=given.get("job_name"),
    )


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused(f"metadata.{name}: {text!r} is no whole number")
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise Refused(f'metadata.{name}: {text!r} is neither "true" nor "false"')
    return _FLAGS[text.lower()]
