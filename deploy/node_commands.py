"""`remotegpud node`: a GPU host joins a platform and runs its daemon."""

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.engine import DEFAULT_HOST
from deploy.instance import DEFAULT_DATA
from deploy.packages import install_packages, missing_packages
from deploy.progress import StepError, say, step
from node.join import JoinError, join

app = typer.Typer(no_args_is_help=True, help="Make this machine a host of a platform.")

DataDir = Annotated[Path, typer.Option("--data-dir", envvar="REMOTEGPU_DATA_DIR", help="Where everything is kept.")]
# The platform's proxy needs Node.js, its image debootstrap; a host needs neither.
_HOST_PACKAGES = frozenset({"docker.io", "nftables", "iptables", "iproute2"})
_TENANT_PORTS = (8000, 8080)


@app.command("join")
def join_command(
    address: Annotated[str, typer.Option(help="The platform's internal listener, https://PLATFORM:8001.")],
    token: Annotated[
        str, typer.Option(envvar="REMOTEGPU_JOIN_TOKEN", help="As `remotegpu admin machine token` shows.")
    ],
    name: Annotated[str | None, typer.Option(help="Default: the host name.")] = None,
    simulate: Annotated[str | None, typer.Option(help="Simulated GPUs, as in 4:A100-80GB.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any number of times.")] = None,
    docker_host: Annotated[str, typer.Option(envvar="DOCKER_HOST")] = DEFAULT_HOST,
    tenant_port: Annotated[
        list[int] | None, typer.Option(help="The platform's public ports. Default: 8000, 8080.")
    ] = None,
    private_network: Annotated[
        list[str] | None, typer.Option(help="Of your own networks, one that tenants may reach, as in 10.1.0.0/16.")
    ] = None,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="For Prometheus. Default: a free one.")] = 0,
    data_dir: DataDir = DEFAULT_DATA,
) -> None:
    """Enrol this machine with a token, and write the host's directory."""
    name = name or socket.gethostname()
    try:
        labels = _labels(label or [])
        with step("system packages"):
            missing = [package for package in missing_packages(docker_external=False) if package in _HOST_PACKAGES]
            if missing:
                install_packages(missing)
        with step(f"join {address}"):
            join(
                data_dir / "hosts" / name, address=address, token=token, name=name, simulate=simulate, labels=labels,
                docker_host=docker_host, tenant_ports=tuple(tenant_port or _TENANT_PORTS), metrics_port=metrics_port,
                private_networks=tuple(private_network or ()),
            )  # fmt: skip
    except (StepError, JoinError, OSError) as error:
        typer.echo(f"remotegpud: {error}", err=True)
        raise typer.Exit(1) from error
    say(f"Joined as {name}. Run the daemon: deploy/remotegpud node run --name {name}")


@app.command("run")
def run_command(
    name: Annotated[str | None, typer.Option(help="Which host, if several live here.")] = None,
    data_dir: DataDir = DEFAULT_DATA,
) -> None:
    """Run the host daemon in the foreground, for systemd or another supervisor."""
    hosts = sorted(path.parent for path in (data_dir / "hosts").glob("*/host.toml"))
    chosen = [path for path in hosts if name is None or path.name == name]
    if len(chosen) != 1:
        known = ", ".join(path.name for path in hosts) or "none"
        typer.echo(f"remotegpud: name one host with --name; joined here: {known}", err=True)
        raise typer.Exit(2)
    os.execv(sys.executable, [sys.executable, "-m", "node.daemon", str(chosen[0])])


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise StepError(f"--label {pair!r} can't be read: give KEY=VALUE")
        labels[key] = value
    return labels
