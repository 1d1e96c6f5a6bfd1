"""`remotegpud`: the operator's command.

Exit codes: 0 done; 1 something is wrong with the platform (the message says what to do); 2 wrong usage.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy import checks as check_suite
from deploy import doctor as doctor_module
from deploy import instance as instances
from deploy import node_commands, scheduler_commands
from deploy.health import check_all
from deploy.instance import DEFAULT_DATA, Instance
from deploy.postgres import PostgresError
from deploy.prepare import prepare_for_benchmarks, prepare_for_tests
from deploy.progress import StepError, say
from deploy.start import choose_hosts, start_everything
from deploy.status import show_json, show_table
from deploy.stop import stop_everything
from deploy.up_options import (
    Address,
    BaseImage,
    DatabaseUrl,
    DockerHost,
    HubDatabaseUrl,
    HubDomain,
    ObjectStoreEndpoint,
    ObjectStoreUrl,
    Port,
    RayAddress,
    RayDashboardUrl,
    RayTokenFile,
    Simulation,
    Text,
    TlsCa,
)
from deploy.welcome import welcome
from scheduler.simulator.__main__ import main as simulator

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Start, stop and look after RemoteGPU.")
app.add_typer(node_commands.app, name="node")
app.add_typer(scheduler_commands.app, name="scheduler")

DataDir = Annotated[Path, typer.Option("--data-dir", envvar="REMOTEGPU_DATA_DIR", help="Where everything is kept.")]


@app.command()
def up(
    data_dir: DataDir = DEFAULT_DATA,
    simulate: Simulation = None,
    address: Address = None,
    port: Port = None,
    internal_port: Port = None,
    hub_port: Port = None,
    hub_domain: HubDomain = None,
    hub_api_port: Port = None,
    proxy_api_port: Port = None,
    ray_port: Port = None,
    ray_dashboard_port: Port = None,
    ray_base_port: Port = None,
    database_url: DatabaseUrl = None,
    hub_database_url: HubDatabaseUrl = None,
    ray_address: RayAddress = None,
    ray_token_file: RayTokenFile = None,
    ray_dashboard_url: RayDashboardUrl = None,
    docker_host: DockerHost = None,
    base_image: BaseImage = None,
    object_store_url: ObjectStoreUrl = None,
    object_store_endpoint: ObjectStoreEndpoint = None,
    object_store_region: Text = None,
    tls_cert: Text = None,
    tls_key: Text = None,
    tls_ca: TlsCa = None,
) -> None:
    """Set up what is missing, start everything, and print where to go.

    Options are remembered; an empty one, as in --ray-address "", goes back to the default.
    """
    options = {key: value for key, value in locals().items() if key != "data_dir"}
    with _reported():
        _as_root("up")
        instance = instances.load(data_dir, **options)
        instance = instances.load(data_dir, **(options | {"simulate": choose_hosts(instance)}))
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(instance):
            say(f"RemoteGPU in {instance.data}")
            start_everything(instance)
        welcome(instance)


@app.command()
def down(data_dir: DataDir = DEFAULT_DATA) -> None:
    """Stop everything; the data stays."""
    with _reported():
        _as_root("down")
        instance = _existing(data_dir)
        with _locked(instance):
            stop_everything(instance)


@app.command()
def status(
    data_dir: DataDir = DEFAULT_DATA, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """The health of each part; exit code 1 when one is down."""
    with _reported():
        _as_root("status")
        instance = _existing(data_dir)
        parts = check_all(instance)
        (show_json if as_json else show_table)(instance, parts)
        if not all(part.healthy for part in parts):
            raise typer.Exit(1)


@app.command()
def doctor(data_dir: DataDir = DEFAULT_DATA) -> None:
    """What is wrong here, and what to do about it; exit code 1 when something is."""
    with _reported():
        _as_root("doctor")
        if not doctor_module.report(instances.load(data_dir), installed=instances.exists(data_dir)):
            raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def simulate(context: typer.Context) -> None:
    """Run a trace against the scheduler in virtual time."""
    raise typer.Exit(simulator(context.args))


@app.command(hidden=True)
def prepare() -> None:
    """What the test suite needs of a machine: packages, a Docker engine, the images."""
    with _reported():
        _as_root("prepare")
        prepare_for_tests()


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def check(context: typer.Context) -> None:
    """Every linter and test; arguments go to pytest."""
    with _reported():
        if not context.args:
            _as_root("check")
        prepared = bool(context.args) or check_suite.run_checks([[check_suite.preparation()]])
        if not check_suite.run_checks(check_suite.test_lanes(tuple(context.args))) or not prepared:
            raise typer.Exit(1)


@app.command(hidden=True, context_settings={"allow_extra_args": True})
def bench(context: typer.Context) -> None:
    """Benchmarks, by name; without one, those of the platform."""
    with _reported():
        prepare_for_benchmarks(context.args)
        if check_suite.bench(tuple(context.args)) != 0:
            raise typer.Exit(1)


@app.command(hidden=True)
def lint(lock: Annotated[bool, typer.Option(help="Write the requirement locks instead.")] = False) -> None:
    """Linters, types and import contracts."""
    with _reported():
        if lock:
            check_suite.write_locks()
        elif not check_suite.run_checks([check_suite.lint_checks()]):
            raise typer.Exit(1)


def _existing(data_dir: Path) -> Instance:
    if not instances.exists(data_dir):
        raise StepError(
            f"there is no installation in {data_dir}: start one with `make up`, or name another with --data-dir"
        )
    return instances.load(data_dir)


def _as_root(command: str) -> None:
    """Go on as root: containers, firewall and the system's packages need it."""
    if os.geteuid() == 0:
        return
    again = [sys.executable, "-m", "deploy.cli", *sys.argv[1:]]
    kept = "PYTHONPATH,PATH,REMOTEGPU_DATA_DIR,REMOTEGPU_CACHE_DIR,DATABASE_URL,DOCKER_HOST"
    sudo = shutil.which("sudo")
    if sudo is None:
        raise StepError(f"`remotegpud {command}` needs root and there is no sudo. Run as root: {' '.join(again)}")
    say(f"`remotegpud {command}` needs root; going on with sudo.")
    os.execv(sudo, [sudo, f"--preserve-env={kept}", *again])


@contextmanager
def _locked(instance: Instance) -> Iterator[None]:
    """One `up` or `down` at a time."""
    with (instance.data / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StepError(f"another remotegpud is working in {instance.data}: wait for it to end") from error
        yield


@contextmanager
def _reported() -> Iterator[None]:
    """Errors of the launcher as a message and exit code 1."""
    try:
        yield
    except (StepError, PostgresError) as error:
        typer.echo(f"remotegpud: {error}", err=True)
        raise typer.Exit(1) from error
    except PermissionError as error:
        typer.echo(f"remotegpud: {error}: run it as root", err=True)
        raise typer.Exit(1) from error


def main() -> Any:  # Any: whatever Typer returns in standalone mode, which is nothing
    app(prog_name="remotegpud")


if __name__ == "__main__":
    main()
