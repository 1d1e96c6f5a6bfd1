"""`remotegpu env`: JupyterLab environments with GPUs."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from remotegpu.cli import asking
from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_rows
from remotegpu.cli.session import Exit, connected, errors
from remotegpu.cli.telling import planned, queued_with, waiting
from remotegpu.cli.units import gpus as gpus_of
from remotegpu.cli.units import memory, moment, money, now_here, parse_cpus, parse_gpus, parse_memory
from remotegpu.client import Client
from remotegpu.models import Environment, EnvironmentAllocation

app = typer.Typer(help="JupyterLab environments with GPUs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The environment's name or id.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it runs, showing why it waits.")]
Timeout = Annotated[float, typer.Option("--timeout", help="How many seconds to wait at most.")]
Image = Annotated[str, typer.Option("--image", help="An image of the catalogue.")]
Cpus = Annotated[float | None, typer.Option("--cpus", help="How many CPUs.")]
Memory = Annotated[str | None, typer.Option("--memory", help="For example 32GB.")]


def _devices(environment: Environment) -> str:
    allocation = environment.allocation
    if not environment.gpus:
        return "no GPU"
    if allocation is None or not allocation.devices:
        return f"{gpus_of(environment.gpus * environment.gpu_milli)} x {environment.gpu_model or 'any'}"
    simulated = " (simulated)" if any(device.simulated for device in allocation.devices) else ""
    milli = sum(device.milli for device in allocation.devices)
    return f"{gpus_of(milli)} x {allocation.devices[0].model}{simulated}"


def _note(environment: Environment) -> str:
    if environment.wait is None:
        return environment.last_error or ""
    waits = waiting(environment.wait, now=now_here())
    return f"{environment.last_error} {waits}" if environment.last_error else waits


def _say(environment: Environment) -> None:
    note = _note(environment)
    errors.print(f"{environment.name}: {environment.observed}" + (f", {note}" if note else ""), soft_wrap=True)


def _settle(client: Client, environment: Environment, *, timeout_s: float, as_json: bool) -> None:
    environment = client.environments.wait(environment.id, timeout_s=timeout_s, on_change=None if as_json else _say)
    _show(environment, as_json=as_json)
    if environment.observed != "running":
        sys.exit(Exit.FAILED)


def _price(allocation: EnvironmentAllocation | None) -> str | None:
    if allocation is None or allocation.price_micro_per_gpu_hour is None:
        return None
    said = money(allocation.price_micro_per_gpu_hour)
    if allocation.price_terms not in (None, "on_demand"):
        said += f", {allocation.price_terms}"
    if allocation.price_kept_until is not None:
        said += f", kept until {moment(allocation.price_kept_until, now=now_here())}"
    return said


def _show(environment: Environment, *, as_json: bool) -> None:
    if as_json:
        print_json(environment)
        return
    allocation = environment.allocation
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
            *queued_with(environment),
            ("host", allocation.host if allocation else None),
            ("price per GPU-hour", _price(allocation)),
            ("address", environment.url),
        ]
    )


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Its name, unique among yours.")],
    image: Image = "base",
    gpus: asking.Gpus = "1",
    gpu_model: asking.Models = None,
    cpus: Cpus = None,
    memory_size: Memory = None,
    disk: Annotated[str | None, typer.Option("--disk", help="For example 100GB.")] = None,
    gpu_memory: asking.GpuMemory = None,
    label: asking.Labels = None,
    driver: asking.Driver = None,
    cuda: asking.Cuda = None,
    apart: asking.Apart = None,
    priority: asking.Priority = None,
    preemptible: asking.Preemptible = None,
    min_runtime: asking.MinRuntime = None,
    time_limit: asking.TimeLimit = None,
    reservation: asking.InReservation = None,
    capacity_group: asking.Group = None,
    workspace: asking.Workspace = None,
    wait: Wait = False,
    timeout: Timeout = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Ask for an environment; it starts by itself when what it asks for is free."""
    count, milli = parse_gpus(gpus)
    run = asking.run_options(
        priority=priority, preemptible=preemptible, min_runtime=min_runtime, time_limit=time_limit,
        reservation=reservation, capacity_group=capacity_group,
    )  # fmt: skip
    options = asking.scheduling_options(
        run, milli=milli, gpu_model=gpu_model, gpu_memory=gpu_memory, label=label, driver=driver, cuda=cuda, apart=apart
    )
    cpu_milli, memory_bytes, disk_bytes = parse_cpus(cpus), parse_memory(memory_size), parse_memory(disk)
    with connected(context) as client:
        environment = client.environments.create(
            name=name, image=image, gpus=count, cpu_milli=cpu_milli, memory_bytes=memory_bytes,
            disk_bytes=disk_bytes, workspace=workspace, **options,
        )  # fmt: skip
        if wait:
            _settle(client, environment, timeout_s=timeout, as_json=as_json)
        else:
            _show(environment, as_json=as_json)


@app.command("plan")
def plan(
    context: typer.Context,
    image: Image = "base",
    gpus: asking.Gpus = "1",
    nodes: asking.Nodes = 1,
    within: asking.Within = None,
    gpu_model: asking.Models = None,
    cpus: Cpus = None,
    memory_size: Memory = None,
    gpu_memory: asking.GpuMemory = None,
    label: asking.Labels = None,
    driver: asking.Driver = None,
    cuda: asking.Cuda = None,
    apart: asking.Apart = None,
    priority: asking.Priority = None,
    preemptible: asking.Preemptible = None,
    min_runtime: asking.MinRuntime = None,
    time_limit: asking.TimeLimit = None,
    reservation: asking.InReservation = None,
    capacity_group: asking.Group = None,
    workspace: asking.Workspace = None,
    as_json: JsonFlag = False,
) -> None:
    """Show when and where this would start and what it would cost, without asking for it."""
    count, milli = parse_gpus(gpus)
    run = asking.run_options(
        priority=priority, preemptible=preemptible, min_runtime=min_runtime, time_limit=time_limit,
        reservation=reservation, capacity_group=capacity_group,
    )  # fmt: skip
    options = asking.scheduling_options(
        run, milli=milli, gpu_model=gpu_model, gpu_memory=gpu_memory, label=label, driver=driver, cuda=cuda, apart=apart
    )
    cpu_milli, memory_bytes = parse_cpus(cpus), parse_memory(memory_size)
    with connected(context) as client:
        found = client.allocations.plan(
            gpus=count, nodes=nodes, within=within, image=image, cpu_milli=cpu_milli, memory_bytes=memory_bytes,
            workspace=workspace, **options,
        )  # fmt: skip
        if as_json:
            print_json(found)
        else:
            print_fields(planned(found, now=now_here()))


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
    context: typer.Context,
    name: Name,
    priority: asking.Priority = None,
    preemptible: asking.Preemptible = None,
    min_runtime: asking.MinRuntime = None,
    time_limit: asking.TimeLimit = None,
    reservation: asking.InReservation = None,
    capacity_group: asking.Group = None,
    wait: Wait = False,
    timeout: Timeout = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Start a stopped environment again, with its /home; what is given replaces how it was queued before."""
    run = asking.run_options(
        priority=priority, preemptible=preemptible, min_runtime=min_runtime, time_limit=time_limit,
        reservation=reservation, capacity_group=capacity_group,
    )  # fmt: skip
    with connected(context) as client:
        environment = client.environments.start(client.environments.find(name).id, **run)
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


@app.command("checkpoint")
def checkpoint(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Say that its work is safe up to now: whoever loses the least is the first to give way."""
    with connected(context) as client:
        environment = client.environments.find(name)
        if environment.allocation is None:
            _say(environment)
            sys.exit(Exit.FAILED)
        client.allocations.checkpoint(environment.allocation.id)
        noted = {"id": environment.id, "name": environment.name, "allocation": environment.allocation.id}
        print_json(noted) if as_json else console.print(f"The work of {environment.name} is safe up to now.")


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
