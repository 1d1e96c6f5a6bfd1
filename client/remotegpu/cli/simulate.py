"""`remotegpu simulate`: the platform's own simulator, where the platform is installed beside this command."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer

_MODULE = "scheduler.simulator"


def simulate(context: typer.Context) -> None:
    """Run a trace against the scheduler in virtual time (only where the platform is installed)."""
    if importlib.util.find_spec("scheduler") is None or importlib.util.find_spec(_MODULE) is None:
        typer.echo(
            "The simulator is part of the platform, which is not installed here. "
            "In a checkout of it: deploy/remotegpud simulate --help",
            err=True,
        )
        raise typer.Exit(2)
    os.execv(sys.executable, [sys.executable, "-m", _MODULE, *context.args])
