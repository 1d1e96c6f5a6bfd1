"""`remotegpu reservation`: GPUs set aside for a time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from remotegpu.cli import asking
from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import (
    duration,
    memory,
    moment,
    now_here,
    parse_cpus,
    parse_duration,
    parse_memory,
    parse_moment,
)
from remotegpu.models import Reservation

app = typer.Typer(help="GPUs set aside for a time.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The reservation's id.")]


def _row(reservation: Reservation) -> tuple[object, ...]:
    now = now_here()
    return (
        reservation.id,
        _state(reservation, now),
        moment(reservation.starts_at, now=now),
        moment(reservation.ends_at, now=now),
        _gpus(reservation),
        ", ".join(sorted({device.host for device in reservation.devices})),
        reservation.owner,
    )


def _state(reservation: Reservation, now: datetime) -> str:
    if reservation.state != "booked":
        return reservation.state
    if reservation.ends_at <= now:
        return "over"
    return "open" if reservation.starts_at <= now else "booked"


def _gpus(reservation: Reservation) -> str:
    model = reservation.devices[0].model if reservation.devices else "GPU"
    each = f"{reservation.gpus} x {model}"
    return each if reservation.nodes == 1 else f"{reservation.nodes} hosts with {each}"


_TITLES = ["ID", "STATE", "FROM", "TO", "GPUS", "HOSTS", "OWNER"]


@app.command("create")
def create(
    context: typer.Context,
    start: Annotated[str, typer.Option("--from", help="For example '2026-12-01 09:00', +2h or now.")],
    length: Annotated[str, typer.Option("--for", help="How long, as 2h.")],
    gpus: Annotated[int, typer.Option("--gpus", help="How many GPUs on each host.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", help="How many hosts.")] = 1,
    gpu_model: asking.Models = None,
    gpu_memory: asking.GpuMemory = None,
    label: asking.Labels = None,
    driver: asking.Driver = None,
    cuda: asking.Cuda = None,
    cpus: Annotated[float | None, typer.Option("--cpus", help="How many CPUs on each host.")] = None,
    memory_size: Annotated[str | None, typer.Option("--memory", help="On each host, for example 32GB.")] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", help="One of yours that is to run in it: on its volume's host.")
    ] = None,
    every: Annotated[str | None, typer.Option("--every", help="day or week: again and again.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="With --every: how often in all.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="With --every: the last one starts before.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set GPUs aside: all of the times, or none. What runs in it costs what it costs elsewhere."""
    now = now_here()
    starts_at, duration_s = parse_moment(start, now=now), parse_duration(length)
    last = parse_moment(until, now=now) if until is not None else None
    assert duration_s is not None  # an option that must be given
    with connected(context) as client:
        made = client.reservations.create(
            starts_at=starts_at, duration_s=duration_s, gpus=gpus, nodes=nodes, gpu_models=asking.models(gpu_model),
            gpu_memory_bytes=parse_memory(gpu_memory) or 0, selectors=label or (), driver=driver, cuda=cuda,
            cpu_milli=parse_cpus(cpus), memory_bytes=parse_memory(memory_size), every=every, count=count, until=last,
            environment=client.environments.find(environment).id if environment is not None else None,
        )  # fmt: skip
        if as_json:
            print_json(made)
        else:
            print_rows(_TITLES, [_row(item) for item in made.items], empty="")


@app.command("list")
def list_reservations(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show your customer's reservations, the newest first."""
    with connected(context) as client:
        found = list(client.reservations.list(over=None if everything else False))
        if as_json:
            print_json(found)
            return
        print_rows(_TITLES, [_row(item) for item in found], empty="There are no reservations.")


@app.command("show")
def show(context: typer.Context, reservation_id: Id, as_json: JsonFlag = False) -> None:
    """Show one reservation with its GPUs."""
    with connected(context) as client:
        found = client.reservations.get(reservation_id)
        if as_json:
            print_json(found)
            return
        now = now_here()
        print_fields(
            [
                ("id", found.id),
                ("series", found.series),
                ("state", _state(found, now)),
                ("from", moment(found.starts_at, now=now)),
                ("to", moment(found.ends_at, now=now)),
                ("length", duration(int((found.ends_at - found.starts_at).total_seconds()))),
                ("GPUs", _gpus(found)),
                ("CPUs on each host", found.cpu_milli / 1000),
                ("memory on each host", memory(found.memory_bytes)),
                *((device.host, device.uuid) for device in found.devices),
            ]
        )


@app.command("cancel")
def cancel(
    context: typer.Context,
    reservation_id: Id,
    series: Annotated[bool, typer.Option("--series", help="All of its series that are not over.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Give back what lies ahead. What runs in it goes on."""
    with connected(context) as client:
        client.reservations.cancel(reservation_id, series=series)
        print_json({"id": reservation_id, "cancelled": True}) if as_json else console.print("Cancelled.")
