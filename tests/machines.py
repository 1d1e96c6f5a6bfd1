"""Machines of their own for hosts: network namespaces on one bridge, each with a Docker Engine."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.engine import Engine
from tests.waiting import wait_for

ROUTER = "198.51.100.1"
_ADDRESS = "198.51.100.{}"
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Machine:
    name: str  # of its network namespace
    address: str  # on the network between them; ROUTER is the test's own machine
    engine: Engine

    def command(self, *arguments: str) -> list[str]:
        """The same command, on this machine. `ip netns exec` would hide the control groups' mounts."""
        return ["nsenter", f"--net=/var/run/netns/{self.name}", *arguments]

    def python(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(sys.executable, *arguments), **options)

    def cut_off(self) -> None:
        """From every other machine, as by a pulled cable."""
        _ip("link", "set", f"{self.name}v", "down")

    def join_again(self) -> None:
        _ip("link", "set", f"{self.name}v", "up")


@contextmanager
def machines(directory: Path, count: int, images: Sequence[str]) -> Iterator[list[Machine]]:
    """`count` machines with these images of the test's own engine; afterwards nothing of them is left."""
    label = f"m{os.getpid()}"
    engines: list[subprocess.Popen[bytes]] = []
    with ExitStack() as cleanup:
        _ip("link", "add", label, "type", "bridge")
        cleanup.callback(_ip, "link", "delete", label)
        _ip("address", "add", f"{ROUTER}/24", "dev", label)
        _ip("link", "set", label, "up")
        # Docker's own chains refuse what the bridge would pass on between its ports.
        accept = ("FORWARD", "-i", label, "-o", label, "-j", "ACCEPT")
        _run("iptables", "-I", *accept)
        cleanup.callback(_run, "iptables", "-D", *accept)
        found = [_machine(directory / f"m{number}", label, number, cleanup, engines) for number in range(count)]
        cleanup.callback(_end, found, engines)
        _copy(images, [machine.engine for machine in found], directory / "images.tar")
        yield found


def _machine(
    directory: Path, label: str, number: int, cleanup: ExitStack, engines: list[subprocess.Popen[bytes]]
) -> Machine:
    name, address = f"{label}n{number}", _ADDRESS.format(11 + number)
    directory.mkdir()
    _ip("netns", "add", name)
    cleanup.callback(_ip, "netns", "delete", name)
    _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", f"{name}v", "master", label, "up")
    for arguments in (
        ("address", "add", f"{address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
        ("route", "add", "default", "via", ROUTER),
    ):
        _ip("-n", name, *arguments)
    machine = Machine(name, address, Engine(f"unix://{directory / 'docker.sock'}"))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            machine.command(
                "dockerd", "--host", machine.engine.host, "--data-root", str(directory / "data"),
                "--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid"),
            ),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    cleanup.callback(process.wait, 60)
    engines.append(process)
    return machine


def _end(found: Sequence[Machine], engines: Sequence[subprocess.Popen[bytes]]) -> None:
    """Every engine is told before any is waited for; one without containers ends at once."""
    for machine, process in zip(found, engines, strict=True):
        docker = ["docker", "--host", machine.engine.host]
        left = subprocess.run([*docker, "ps", "--all", "--quiet"], capture_output=True, text=True, check=True)
        if left.stdout:
            _run(*docker, "rm", "--force", *left.stdout.split())
        process.terminate()


def _copy(images: Sequence[str], engines: Sequence[Engine], archive: Path) -> None:
    _run("docker", "save", "--output", str(archive), *images)
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(lambda engine: _load(engine, archive), engines))
    archive.unlink()


def _load(engine: Engine, archive: Path) -> None:
    docker = ["docker", "--host", engine.host]
    wait_for(
        lambda: subprocess.run([*docker, "info"], capture_output=True, check=False).returncode == 0,
        timeout_s=60, what=f"the engine at {engine.host}",
    )  # fmt: skip
    _run(*docker, "load", "--input", str(archive))


def _ip(*arguments: str) -> None:
    if arguments[:2] == ("netns", "delete"):
        links = Path("/sys/class/net") / f"{arguments[2]}v"
        _run("ip", *arguments)
        wait_for(lambda: not links.exists(), timeout_s=20, what="no link left")
        return
    _run("ip", *arguments)


def _run(*command: str, **options: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
