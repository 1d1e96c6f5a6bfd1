"""Packages of the distribution that the platform needs, installed with apt where something is missing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from deploy.progress import StepError
from deploy.shell import execute

_TIMEOUT_S = 900

# The command that shows that a package is there (a Docker Engine from another source than the distribution will do).
NEEDED: dict[str, str] = {
    "dockerd": "docker.io",
    "node": "nodejs",
    "npm": "npm",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
}
FOR_TESTS: dict[str, str] = {"chromium": "chromium"}
FOR_BENCHMARKS: dict[str, str] = {"wrk": "wrk"}


def missing_packages(
    *, docker_external: bool, which: Callable[[str], str | None] = lambda name: shutil.which(name, path=search_path())
) -> list[str]:
    """Packages whose command is not found. With an external Docker host no engine is needed here."""
    found = [package for command, package in NEEDED.items() if which(command) is None]
    return [package for package in found if not (docker_external and package == "docker.io")]


def search_path() -> str:
    """PATH with the system directories, which an unprivileged user's own often lacks."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def install_packages(packages: list[str]) -> None:
    """Install `packages` from the distribution.

    Raises:
        StepError: this is not Debian or Ubuntu, we are not root, or apt failed.
    """
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise StepError(
            f"missing: {', '.join(packages)}. There is no apt-get here; install them with your package manager."
        )
    if os.geteuid() != 0:
        raise StepError(f"missing packages. Run as root: {command}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
    execute([*apt, "update"], timeout_s=_TIMEOUT_S, env=environment, remedy="Look at /etc/apt/sources.list.")
    execute(
        [*apt, "install", "--no-install-recommends", *packages],
        timeout_s=_TIMEOUT_S, env=environment, remedy=f"Try it by hand: {command}",
    )  # fmt: skip


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()
