"""`remotegpud scheduler`: what the scheduler has decided, looked at again."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster.recordings import read_lines
from cluster.scheduling_settings import engine_of
from scheduler.recording import Difference, RecordingError, replay

app = typer.Typer(no_args_is_help=True, help="Look at what the scheduler has decided.")


@app.command("replay")
def replay_command(
    file: Annotated[Path, typer.Argument(help="A recording, as the controller keeps them: recordings/*.jsonl.gz")],
) -> None:
    """Let a fresh engine decide a recording again: exit code 0 if it decides the same, 1 if not, 2 for a bad file."""
    try:
        found = replay(read_lines(file), engine_of)
    except RecordingError as error:
        _refuse(f"{file}, {error}")
    except OSError as error:
        _refuse(f"{file}: {error.strerror or error}")
    if found.difference is not None:
        typer.echo(_told(file, found.difference), err=True)
        raise typer.Exit(1)
    typer.echo(f"The same: {found.plans:,} plans with {found.placements:,} placements, {found.evictions:,} evictions.")


def _told(file: Path, difference: Difference) -> str:
    return (
        f"remotegpud: {file}, line {difference.line}: {difference.where} was {difference.recorded!r} "
        f"and is {difference.replayed!r} now"
    )


def _refuse(message: str) -> NoReturn:
    typer.echo(f"remotegpud: {message}", err=True)
    raise typer.Exit(2)
