"""The options that describe a task on the command line, and the document that they come to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core

from remotegpu.cli import asking
from remotegpu.cli.units import parse_milli
from remotegpu.options import given
from remotegpu.tasks import made_up_name

_PANEL = "A task without a file"
_AFTER = "remotegpu.after_dashes"

Name = Annotated[
    str | None, typer.Option("--name", help="By default made up from the command.", rich_help_panel=_PANEL)
]
Image = Annotated[str, typer.Option("--image", help="An image of the catalogue.", rich_help_panel=_PANEL)]
Gpus = Annotated[str, typer.Option("--gpus", help="How many GPUs; 0.46 is that share of one.", rich_help_panel=_PANEL)]
Models = Annotated[
    list[str] | None,
    typer.Option("--gpu-model", help="Repeated or A100,H100: any of them.", rich_help_panel=_PANEL),
]
Cpus = Annotated[float | None, typer.Option("--cpus", help="How many CPUs.", rich_help_panel=_PANEL)]
Memory = Annotated[str | None, typer.Option("--memory", help="For example 32GB.", rich_help_panel=_PANEL)]
Shm = Annotated[str | None, typer.Option("--shm", help="/dev/shm, part of the memory.", rich_help_panel=_PANEL)]
Nodes = Annotated[int | None, typer.Option("--nodes", help="Hosts, started together.", rich_help_panel=_PANEL)]
Ray = Annotated[
    bool | None,
    typer.Option("--ray/--no-ray", help="A Ray of its own over its hosts.", rich_help_panel=_PANEL),
]
WorkingDir = Annotated[
    str | None,
    typer.Option("--working-dir", help="A folder that is uploaded, and is the command's.", rich_help_panel=_PANEL),
]
Env = Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE; repeated for more.", rich_help_panel=_PANEL)]
Secret = Annotated[
    list[str] | None,
    typer.Option("--secret", help="Name of a secret of the workspace; repeated for more.", rich_help_panel=_PANEL),
]
Mount = Annotated[
    list[str] | None, typer.Option("--mount", help="VOLUME:/PATH; repeated for more.", rich_help_panel=_PANEL)
]
Setup = Annotated[
    str | None, typer.Option("--setup", help="A shell command before the command.", rich_help_panel=_PANEL)
]
Priority = Annotated[int | None, typer.Option("--priority", help="Higher goes first.", rich_help_panel=_PANEL)]
Preemptible = Annotated[
    bool | None,
    typer.Option("--preemptible/--not-preemptible", help="It may give way.", rich_help_panel=_PANEL),
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", help="An attempt is ended after that, as 6h.", rich_help_panel=_PANEL)
]
Array = Annotated[
    str | None,
    typer.Option("--array", help="Indices, as 0-9, or 0-9%2 for two at once.", rich_help_panel=_PANEL),
]
DependsOn = Annotated[
    list[str] | None,
    typer.Option("--depends-on", help="A task that has to succeed first; repeated for more.", rich_help_panel=_PANEL),
]


class AfterDashes(typer.core.TyperCommand):
    """A command that keeps the words after `--` apart from its own arguments."""

    # Any: a context of click's, which some versions of typer have a copy of
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            args, ctx.meta[_AFTER] = args[:place], args[place + 1 :]
        return super().parse_args(ctx, args)


def words_after_dashes(context: typer.Context) -> list[str] | None:
    """None without a `--`."""
    found: list[str] | None = context.meta.get(_AFTER)
    return found


def given_options(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Which of the parameters were given, as they are written: `--gpus`."""
    found = {name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    return [parameter.opts[0] for parameter in context.command.params if parameter.name in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A task as the options of the command line describe it."""

    name: str | None
    image: str
    gpus: str
    gpu_model: list[str] | None
    cpus: float | None
    memory: str | None
    shm: str | None
    nodes: int | None
    ray: bool | None
    working_dir: str | None
    env: list[str] | None
    secret: list[str] | None
    mount: list[str] | None
    setup: str | None
    priority: int | None
    preemptible: bool | None
    timeout: str | None
    array: str | None
    depends_on: list[str] | None

    def document(self, words: Sequence[str]) -> dict[str, Any]:  # Any: JSON
        """The document of a task that runs these words, each as it is.

        Raises:
            typer.BadParameter: an option is none of its kind.
        """
        command = shlex.join(words)
        resources = {
            "gpus": _number(self.gpus),
            "gpu_model": asking.models(self.gpu_model) or None,
            "cpus": self.cpus,
            "memory": self.memory,
            "shm": self.shm,
        }
        found = {
            "name": self.name or made_up_name(command),
            "image": self.image,
            "resources": given(resources),
            "nodes": self.nodes,
            "ray": self.ray,
            "working_dir": self.working_dir,
            "env": dict(_pair(each, "=", "--env NAME=VALUE") for each in self.env or ()) or None,
            "secrets": list(self.secret or ()) or None,
            "mounts": [_mount(each) for each in self.mount or ()] or None,
            "setup": self.setup,
            "command": command,
            "priority": self.priority,
            "preemptible": self.preemptible,
            "timeout": self.timeout,
            "array": self.array,
            "depends_on": list(self.depends_on or ()) or None,
        }
        return given(found)


DESCRIBING = tuple(Described.__dataclass_fields__)
"""The parameters that describe a task."""


def _number(gpus: str) -> int | float:
    milli = parse_milli(gpus)
    return milli // 1000 if milli % 1000 == 0 else milli / 1000


def _pair(text: str, separator: str, form: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found:
        raise typer.BadParameter(f"{text!r}: write {form}")
    return name, value


def _mount(text: str) -> dict[str, str]:
    volume, path = _pair(text, ":", "--mount VOLUME:/PATH")
    return {"volume": volume, "path": path}
