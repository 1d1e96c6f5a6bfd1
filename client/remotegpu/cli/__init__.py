"""The `remotegpu` command."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from remotegpu.cli import (
    account,
    admin,
    balance,
    billing,
    env,
    quota,
    reservations,
    secret,
    simulate,
    task,
    volume,
    workspaces,
)
from remotegpu.cli import run as running
from remotegpu.cli.session import Options
from remotegpu.cli.task_options import AfterDashes

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Rent GPUs and work on them.")


@app.callback()
def options(
    context: typer.Context,
    address: Annotated[str | None, typer.Option(envvar="REMOTEGPU_ADDRESS", help="The platform's address.")] = None,
) -> None:
    # A key is taken from the environment alone: arguments can be read by every user of the machine.
    context.obj = Options(address=address, api_key=os.environ.get("REMOTEGPU_API_KEY"))


app.command()(account.login)
app.command()(account.logout)
app.command()(account.password)
app.command()(account.whoami)
app.command()(account.hosts)
app.command()(account.images)
app.command()(billing.usage)
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(context_settings=_PASSED_ON)(simulate.simulate)
app.command(cls=AfterDashes)(running.run)
app.add_typer(billing.app, name="bill")
app.add_typer(balance.app, name="balance")
app.add_typer(task.app, name="task")
app.add_typer(secret.app, name="secret")
app.add_typer(volume.app, name="volume")
app.add_typer(env.app, name="env")
app.add_typer(quota.app, name="quota")
app.add_typer(reservations.app, name="reservation")
app.add_typer(workspaces.app, name="workspace")
app.add_typer(account.keys, name="api-key")
app.add_typer(admin.app, name="admin")


def main() -> None:
    app()
