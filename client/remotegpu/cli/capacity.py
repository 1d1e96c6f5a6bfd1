"""`remotegpu admin capacity-group`: customers' guaranteed shares, and what they lend each other."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from remotegpu.cli.customers import find_customer
from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import gpus, parse_milli
from remotegpu.client import Client
from remotegpu.errors import NotFound
from remotegpu.models import Json

app = typer.Typer(help="Customers' guaranteed shares of the GPUs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The group's name.")]
_UNLIMITED = "none"


def _group(client: Client, name: str) -> Json:
    found = client.admin.find_capacity_group(name)
    if found is None:
        detail = f"There is no capacity group {name!r}; see remotegpu admin capacity-group list."
        raise NotFound(status=404, code="not_found", detail=detail)
    return found


def _check_model(group: Json, gpu_model: str | None) -> None:
    """Said again it may be, but not another one."""
    if gpu_model not in (None, group["gpu_model"]):
        is_of = group["gpu_model"] or "any model"
        raise typer.BadParameter(f"{group['name']!r} is of {is_of} for good: make another group for {gpu_model}")


def _limit(milli: int | None) -> str:
    return _UNLIMITED if milli is None else gpus(milli)


@app.command("set")
def set_group(
    context: typer.Context,
    name: Name,
    nominal: Annotated[str | None, typer.Option("--nominal", help="GPUs that are its own, as 8 or 0.5.")] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Whose it is; needed for a new one.")] = None,
    cohort: Annotated[str | None, typer.Option("--cohort", help="Groups of one cohort lend to each other.")] = None,
    gpu_model: Annotated[
        str | None,
        typer.Option("--gpu-model", help="Of all that is charged to it, as A100; only for a new one. Default: any."),
    ] = None,
    borrow: Annotated[
        str | None, typer.Option("--borrow", help="GPUs beyond its own at most, or none: no limit.")
    ] = None,
    lend: Annotated[str | None, typer.Option("--lend", help="GPUs of its own that others may have, or none.")] = None,
    reclaim: Annotated[
        bool | None, typer.Option("--reclaim/--no-reclaim", help="Take back by preemption what others have borrowed.")
    ] = None,
    preempt: Annotated[
        bool | None, typer.Option("--preempt/--no-preempt", help="Higher priority preempts lower inside the group.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a group, or change what is given of one that there is."""
    changes: dict[str, Any] = {  # Any: JSON
        key: value
        for key, value in (
            ("nominal_milli", parse_milli(nominal) if nominal is not None else None),
            ("cohort", cohort),
            ("reclaim_within_cohort", reclaim),
            ("preempt_lower_priority", preempt),
        )
        if value is not None
    }
    for key, text in (("borrowing_limit_milli", borrow), ("lending_limit_milli", lend)):
        if text is not None:
            changes[key] = None if text == _UNLIMITED else parse_milli(text)
    with connected(context) as client:
        found = client.admin.find_capacity_group(name)
        if found is not None:
            _check_model(found, gpu_model)
            changed = client.admin.change_capacity_group(found["id"], changes)
        elif customer is None or nominal is None:
            raise typer.BadParameter(f"{name!r} is new: say whose it is and what is its own, --customer and --nominal")
        else:
            whose = find_customer(client, customer)["id"]
            model = {"gpu_model": gpu_model} if gpu_model is not None else {}
            changed = client.admin.create_capacity_group({"name": name, "customer": whose, **model, **changes})
        print_json(changed) if as_json else _print([changed])


@app.command("list")
def list_groups(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the groups with what is held in each."""
    with connected(context) as client:
        found = list(client.admin.list("capacity-groups"))
        print_json(found) if as_json else _print(found)


@app.command("rm")
def remove_group(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Take a group away in which nothing waits or runs."""
    with connected(context) as client:
        client.admin.remove_capacity_group(_group(client, name)["id"])
        print_json({"name": name, "removed": True}) if as_json else console.print(f"{name} is removed.")


def _print(groups: list[Json]) -> None:
    titles = ["NAME", "CUSTOMER", "COHORT", "MODEL", "NOMINAL", "BORROWS", "LENDS", "HELD", "WAITING"]
    rows = [
        (
            group["name"],
            group["customer"],
            group["cohort"],
            group["gpu_model"],
            gpus(group["nominal_milli"]),
            _limit(group["borrowing_limit_milli"]),
            _limit(group["lending_limit_milli"]),
            gpus(group["held_milli"]),
            gpus(group["waiting_milli"]),
        )
        for group in groups
    ]
    print_rows(titles, rows, empty="There are no capacity groups.")
