"""`remotegpu admin machine`: machines, their GPUs and leases, and the tokens with which they join."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import memory
from remotegpu.client import Client
from remotegpu.errors import NotFound
from remotegpu.models import Json

app = typer.Typer(help="Machines, their GPUs and leases.", no_args_is_help=True)


def find(client: Client, name: str) -> Json:
    """Raises NotFound."""
    for found in client.admin.list("machines"):
        if name in (found["id"], found["name"]):
            return found
    raise NotFound(
        status=404, code="not_found", detail=f"There is no machine {name!r}; see remotegpu admin machine list."
    )


@app.command("list")
def list_machines(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the machines with their states and GPUs."""
    with connected(context) as client:
        found = list(client.admin.list("machines"))
        if as_json:
            print_json(found)
            return
        rows = [
            (
                m["name"],
                m["device_status"],
                m["admin_state"],
                m["allocation_status"],
                len(m.get("gpus", [])),
                memory(m.get("memory_bytes")),
                "simulated" if m.get("simulated") else "",
            )
            for m in found
        ]
        titles = ["NAME", "DEVICE", "ADMIN", "ALLOCATION", "GPUS", "MEMORY", ""]
        print_rows(titles, rows, empty="No machine has joined yet.")


@app.command("show")
def show_machine(context: typer.Context, name: str, as_json: JsonFlag = False) -> None:
    """Show one machine with its GPUs, their last readings, and who rents them."""
    with connected(context) as client:
        found = find(client, name)
        if as_json:
            print_json(found)
            return
        print_fields(
            [
                ("name", found["name"]),
                ("state", f"{found['device_status']}, {found['admin_state']}, {found['allocation_status']}"),
                ("address", found["address"]),
                ("CPUs", found["cpu_milli"] / 1000),
                ("memory", memory(found["memory_bytes"])),
                ("GPUs", "simulated" if found["simulated"] else "real"),
                ("labels", _labels(found["labels"])),
            ]
        )
        renters = {uuid: lease["customer"] for lease in found["leases"] for uuid in lease["gpu_uuids"]}
        rows = [_gpu_row(gpu, renters.get(gpu["uuid"])) for gpu in found["gpus"]]
        console.print()
        print_rows(["GPU", "MODEL", "USED", "MEMORY USED", "°C", "WATT", "CUSTOMER"], rows, empty="It has no GPUs.")


def _gpu_row(gpu: Json, renter: str | None) -> tuple[object, ...]:
    reading = gpu["reading"] or {}
    used = reading.get("utilisation_percent")
    return (
        gpu["uuid"],
        gpu["model"],
        None if used is None else f"{used} %",
        memory(reading.get("memory_used_bytes")),
        reading.get("temperature_c"),
        None if (power_mw := reading.get("power_mw")) is None else f"{power_mw / 1000:.0f}",
        renter,
    )


@app.command("set")
def set_machine(
    context: typer.Context,
    name: str,
    admin_state: Annotated[str, typer.Argument(help="available, draining, maintenance or retired.")],
    as_json: JsonFlag = False,
) -> None:
    """Say what a machine is wanted for."""
    with connected(context) as client:
        changed = client.admin.set_machine(find(client, name)["id"], admin_state=admin_state)
        print_json(changed) if as_json else console.print(f"{name}: {admin_state}")


@app.command("label")
def label_machine(
    context: typer.Context,
    name: str,
    labels: Annotated[list[str], typer.Argument(help="zone=a sets a label, zone- takes it away.")],
    as_json: JsonFlag = False,
) -> None:
    """Set or take away labels of a machine, by which requests choose it."""
    with connected(context) as client:
        found = find(client, name)
        changed = client.admin.label_machine(found["id"], _changed(found["labels"], labels))
        print_json(changed) if as_json else console.print(f"{name}: {_labels(changed['labels'])}")


def _changed(labels: dict[str, str], changes: list[str]) -> dict[str, str]:
    kept = dict(labels)
    for change in changes:
        key, sign, value = change.partition("=")
        if sign:
            kept[key] = value
        elif change.endswith("-"):
            kept.pop(change[:-1], None)
        else:
            raise typer.BadParameter(f"{change!r}: write zone=a to set a label, or zone- to take it away")
    return kept


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


@app.command("token")
def enrolment_token(
    context: typer.Context,
    description: Annotated[str, typer.Option("--description")] = "",
    uses: Annotated[int, typer.Option("--uses", help="How many machines may join with it.")] = 1,
    machine: Annotated[str | None, typer.Option("--machine", help="A machine that is to join again.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a token with which a machine joins; it is shown once."""
    with connected(context) as client:
        machine_id = find(client, machine)["id"] if machine is not None else None
        created = client.admin.create_enrolment_token(description=description, uses=uses, machine_id=machine_id)
        print_json(created) if as_json else console.print(created["token"], soft_wrap=True)


@app.command("tokens")
def list_enrolment_tokens(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the tokens that were made, with what is left of them."""
    with connected(context) as client:
        found = list(client.admin.list("machines/enrolment-tokens"))
        if as_json:
            print_json(found)
            return
        names = {machine["id"]: machine["name"] for machine in client.admin.list("machines")}
        rows = [
            (
                token["id"],
                token["description"],
                names.get(token["machine_id"], "new ones"),
                "revoked" if token["revoked_at"] else token["uses_left"],
                token["expires_at"],
            )
            for token in found
        ]
        print_rows(["ID", "DESCRIPTION", "FOR", "USES LEFT", "EXPIRES"], rows, empty="No token has been made yet.")


@app.command("revoke-token")
def revoke_enrolment_token(context: typer.Context, token_id: str, as_json: JsonFlag = False) -> None:
    """Make a token worthless; machines that joined with it stay."""
    with connected(context) as client:
        client.admin.revoke_enrolment_token(token_id)
        print_json({"id": token_id}) if as_json else console.print(f"{token_id} is revoked.")
