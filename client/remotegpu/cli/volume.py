"""`remotegpu volume`: folders that outlive the tasks which mount them."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli import asking
from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import memory, parse_memory
from remotegpu.models import Volume

app = typer.Typer(help="Folders that outlive the tasks which mount them.", no_args_is_help=True)


def _row(volume: Volume) -> tuple[object, ...]:
    note = "being deleted" if volume.delete_at is not None else ""
    return volume.name, memory(volume.size_bytes), volume.host, volume.workspace, volume.owner, note


_TITLES = ["NAME", "SIZE", "HOST", "WORKSPACE", "OWNER", ""]


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name, unique in the workspace.")],
    size: Annotated[str, typer.Option("--size", help="What it takes at most, as 100GB.")] = "100GB",
    workspace: asking.Workspace = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a volume. It lies on the host of the first task that mounts it, and binds to it those that follow."""
    size_bytes = parse_memory(size)
    assert size_bytes is not None  # there is a default
    with connected(context) as client:
        made = client.volumes.create(name, size_bytes=size_bytes, workspace=workspace)
        print_json(made) if as_json else print_rows(_TITLES, [_row(made)], empty="")


@app.command("list")
def list_volumes(context: typer.Context, workspace: asking.Workspace = None, as_json: JsonFlag = False) -> None:
    """Show volumes, and on which host they lie."""
    with connected(context) as client:
        found = list(client.volumes.list(workspace=workspace))
        print_json(found) if as_json else print_rows(_TITLES, map(_row, found), empty="There are no volumes.")


@app.command("rm")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The volume's name or id.")],
    workspace: asking.Workspace = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a volume with what is in it."""
    with connected(context) as client:
        volume = client.volumes.find(name, workspace=workspace)
        if not yes:
            typer.confirm(f"Delete {volume.name} with everything in it?", abort=True, err=True)
        client.volumes.delete(volume.id)
        deleted = {"id": volume.id, "name": volume.name, "deleted": True}
        print_json(deleted) if as_json else console.print(f"{volume.name} is being deleted.", markup=False)
