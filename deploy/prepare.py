"""A machine made ready for the test suite, which starts its own platforms: packages, an engine, images, the proxy."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.engine import DEFAULT_HOST, Engine, daemon_command, start_with_systemd
from deploy.instance import Instance
from deploy.machine import ensure_hub_proxy, ensure_images, ensure_packages
from deploy.packages import FOR_BENCHMARKS, FOR_TESTS, install_packages
from deploy.progress import step


def prepare_for_tests() -> None:
    instance = Instance()
    ensure_packages(instance)
    _ensure_packages_of("tests", FOR_TESTS)
    with step("Docker Engine") as current:
        current.note = _ensure_engine()
    ensure_images(instance)
    ensure_hub_proxy()


def prepare_for_benchmarks(names: Sequence[str]) -> None:
    """`names`: those that are to run; none stands for the platform's."""
    if not names or "api-list" in names:
        _ensure_packages_of("benchmarks", FOR_BENCHMARKS)


def _ensure_packages_of(what: str, needed: Mapping[str, str]) -> None:
    with step(f"packages of the {what}") as current:
        missing = [package for command, package in needed.items() if shutil.which(command) is None]
        if missing:
            install_packages(missing)
        current.note = f"installed {' '.join(missing)}" if missing else "all there"


def _ensure_engine() -> str:
    engine = Engine(DEFAULT_HOST)
    version = engine.version()
    if version is not None:
        return f"{version} answers"
    if start_with_systemd():
        return f"{engine.wait()} started by systemd"
    with Path("/var/log/dockerd.log").open("ab") as log:
        subprocess.Popen(
            daemon_command(DEFAULT_HOST, Instance().data), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd="/", start_new_session=True,
        )  # fmt: skip
    return f"{engine.wait()} started, log in /var/log/dockerd.log"
