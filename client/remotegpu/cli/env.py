"""`remotegpu env`: JupyterLab environments with GPUs."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_rows
from remotegpu.cli.session import Exit, connected, errors
from remotegpu.cli.units import memory, money, parse_cpus, parse_memory
from remotegpu.client import Client
from remotegpu.models import Environment

app = typer.Typer(help="JupyterLab environments with GPUs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The environment's name or id.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it runs, showing why it waits.")]
Timeout = Annotated[float, typer.Option("--timeout", help="How many seconds to wait at most.")]


def _devices(environment: Environment) -> str:
    allocation = environment.allocation
    if allocation is None or not allocation.devices:
        return f"{environment.gpus} x {environment.gpu_model or 'any'}"
    simulated = " (simulated)" if any(device.simulated for device in allocation.devices) else ""
    return f"{len(allocation.devices)} x {allocation.devices[0].model}{simulated}"


def _note(environment: Environment) -> str:
    if environment.wait is not None:
        place = f" (place {environment.wait.position} in the queue)" if environment.wait.position else ""
        return environment.wait.detail + place
    return environment.last_error or ""


def _say(environment: Environment) -> None:
    note = _note(environment)
    errors.print(f"{environment.name}: {environment.observed}" + (f", {note}" if note else ""), soft_wrap=True)


def _settle(client: Client, environment: Environment, *, timeout_s: float, as_json: bool) -> None:
    environment = client.environments.wait(environment.id, timeout_s=timeout_s, on_change=None if as_json else _say)
    _show(environment, as_json=as_json)
    if environment.observed != "running":
        sys.exit(Exit.FAILED)


def _show(environment: Environment, *, as_json: bool) -> None:
    if as_json:
        print_json(environment)
        return
    allocation = environment.allocation
    price = allocation.price_micro_per_gpu_hour if allocation else None
    print_fields(
        [
            ("name", environment.name),
            ("id", environment.id),
            ("state", environment.observed),
            ("note", _note(environment) or None),
            ("image", environment.image),
            ("GPUs", _devices(environment)),
            ("CPUs", environment.cpu_milli / 1000),
            ("memory", memory(environment.memory_bytes)),
            ("host", allocation.host if allocation else None),
            ("price per GPU-hour", money(price)),
            ("address", environment.url),
        ]
    )


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Its name, unique among yours.")],
    image: Annotated[str, typer.Option("--image", help="An image of the catalogue.")] = "base",
    gpus: Annotated[int, typer.Option("--gpus", help="How many GPUs.")] = 1,
    gpu_model: Annotated[str | None, typer.Option("--gpu-model", help="For example A100 or A100-80GB.")] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", help="How many CPUs.")] = None,
    memory_size: Annotated[str | None, typer.Option("--memory", help="For example 32GB.")] = None,
    disk: Annotated[str | None, typer.Option("--disk", help="For example 100GB.")] = None,
    wait: Wait = False,
    timeout: Timeout = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Ask for an environment; it starts by itself when what it asks for is free."""
    with connected(context) as client:
        environment = client.environments.create(
            name=name,
            image=image,
            gpus=gpus,
            gpu_model=gpu_model,
            cpu_milli=parse_cpus(cpus),
            memory_bytes=parse_memory(memory_size),
            disk_bytes=parse_memory(disk),
        )
        if wait:
            _settle(client, environment, timeout_s=timeout, as_json=as_json)
        else:
            _show(environment, as_json=as_json)


@app.command("list")
def list_environments(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show your environments and, if they wait, why."""
    with connected(context) as client:
        found = list(client.environments.list())
        if as_json:
            print_json(found)
            return
        rows = [(e.name, e.observed, _devices(e), e.image, e.owner, _note(e)) for e in found]
        print_rows(["NAME", "STATE", "GPUS", "IMAGE", "OWNER", "NOTE"], rows, empty="You have no environments.")


@app.command("show")
def show(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Show one environment."""
    with connected(context) as client:
        _show(client.environments.find(name), as_json=as_json)


@app.command("open")
def open_environment(
    context: typer.Context,
    name: Name,
    print_only: Annotated[bool, typer.Option("--print", help="Only print the address.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Open its JupyterLab in the browser."""
    with connected(context) as client:
        environment = client.environments.find(name)
        if environment.observed != "running":
            _say(environment)
            sys.exit(Exit.FAILED)
        print_json({"url": environment.url}) if as_json else console.print(environment.url, soft_wrap=True)
        if not print_only and not as_json:
            webbrowser.open(environment.url)


@app.command("start")
def start(
    context: typer.Context, name: Name, wait: Wait = False, timeout: Timeout = 600.0, as_json: JsonFlag = False
) -> None:
    """Start a stopped environment again, with its /home."""
    with connected(context) as client:
        environment = client.environments.start(client.environments.find(name).id)
        if wait:
            _settle(client, environment, timeout_s=timeout, as_json=as_json)
        else:
            _show(environment, as_json=as_json)


@app.command("stop")
def stop(
    context: typer.Context, name: Name, wait: Wait = False, timeout: Timeout = 60.0, as_json: JsonFlag = False
) -> None:
    """End its container and give its GPUs back; /home stays."""
    with connected(context) as client:
        environment = client.environments.stop(client.environments.find(name).id)
        if wait:
            environment = client.environments.wait(
                environment.id, timeout_s=timeout, until=frozenset({"stopped", "failed", "deleted"})
            )
        _show(environment, as_json=as_json)


@app.command("rm")
def remove(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete it, with its /home."""
    with connected(context) as client:
        environment = client.environments.find(name)
        if not yes:
            typer.confirm(f"Delete {environment.name} with everything in its /home?", abort=True, err=True)
        client.environments.delete(environment.id)
        deleted = {"id": environment.id, "name": environment.name, "desired": "deleted"}
        print_json(deleted) if as_json else console.print(f"{environment.name} is being deleted.")
