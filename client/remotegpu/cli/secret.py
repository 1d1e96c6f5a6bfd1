"""`remotegpu secret`: values that tasks are given and nobody is shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from remotegpu.cli import asking
from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import moment, now_here

app = typer.Typer(help="Values that tasks are given and nobody is shown.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name of the variable, as WANDB_KEY.")]


@app.command("set")
def set_secret(
    context: typer.Context, name: Name, workspace: asking.Workspace = None, as_json: JsonFlag = False
) -> None:
    """Set a secret. Its value is asked for, or read from standard input."""
    # Never an argument: those can be read by every user of the machine.
    value = typer.prompt("Value", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    with connected(context) as client:
        made = client.secrets.set(name, value.removesuffix("\n"), workspace=workspace)
        print_json(made) if as_json else console.print(f"{made.name} is set.", markup=False)


@app.command("list")
def list_secrets(context: typer.Context, workspace: asking.Workspace = None, as_json: JsonFlag = False) -> None:
    """Show the names of a workspace's secrets."""
    with connected(context) as client:
        found = list(client.secrets.list(workspace=workspace))
        if as_json:
            print_json(found)
            return
        now = now_here()
        rows = [(secret.name, moment(secret.updated_at, now=now)) for secret in found]
        print_rows(["NAME", "SET"], rows, empty="There are no secrets.")


@app.command("rm")
def remove(context: typer.Context, name: Name, workspace: asking.Workspace = None, as_json: JsonFlag = False) -> None:
    """Delete a secret. Tasks that run keep it."""
    with connected(context) as client:
        client.secrets.delete(name, workspace=workspace)
        print_json({"name": name, "deleted": True}) if as_json else console.print(f"{name} is gone.", markup=False)
