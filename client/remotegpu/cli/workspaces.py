"""`remotegpu workspace`: between which a customer's share is shared fairly."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected

app = typer.Typer(help="Your customer's workspaces, which share its GPUs fairly.", no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name, unique at your customer.")],
    as_json: JsonFlag = False,
) -> None:
    """Make another workspace, as the customer's owner."""
    with connected(context) as client:
        made = client.account.create_workspace(name)
        print_json(made) if as_json else console.print(f"Workspace {made['name']} is there.")


@app.command("list")
def list_workspaces(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the workspaces; what names none is in the default one."""
    with connected(context) as client:
        found = list(client.account.workspaces())
        if as_json:
            print_json(found)
            return
        rows = [(each["name"], "default" if each["is_default"] else "", each["id"]) for each in found]
        print_rows(["NAME", "", "ID"], rows, empty="There are no workspaces.")
