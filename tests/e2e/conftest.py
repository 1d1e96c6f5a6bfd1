"""One running platform per test session, started and ended by the launcher as an operator does."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Customer, Person

REPOSITORY = Path(__file__).parent.parent.parent
_UP_S = 900  # the first one on a machine bootstraps an image
_DOWN_S = 180
_PORTS = ("port", "internal-port", "hub-port", "hub-api-port", "proxy-api-port", "ray-port", "ray-dashboard-port")
_RAY_PORTS = 1000
_RUNNING = (
    "REMOTEGPU_E2E_DATA"  # the data directory of an installation that runs already and stays up: for writing tests
)


@dataclass(frozen=True, slots=True)
class Platform:
    """An installation below `data`. The options are those of its first `up`."""

    data: Path
    options: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.data / "instance.json").read_text())
        return document

    @property
    def public_url(self) -> str:
        return f"{self._scheme}://{self.settings['address']}:{self.settings['port']}"

    @property
    def hub_url(self) -> str:
        return f"{self._scheme}://{self.settings['address']}:{self.settings['hub_port']}"

    @property
    def _scheme(self) -> str:
        return "https" if self.settings["tls_cert"] else "http"

    @property
    def admin_password(self) -> str:
        """The first administrator's generated password."""
        return (self.data / "secrets" / "admin_password").read_text().strip()

    @property
    def hosts(self) -> list[str]:
        return sorted(path.name for path in (self.data / "hosts").iterdir())

    def up(self) -> str:
        return self.run("up", *self.options, timeout_s=_UP_S)

    def down(self) -> str:
        return self.run("down", timeout_s=_DOWN_S)

    def status(self) -> dict[str, Any]:
        """What `remotegpud status --json` says, whether all is well or not."""
        document: dict[str, Any] = json.loads(self.run("status", "--json", timeout_s=60, check=False))
        return document

    def healthy(self) -> bool:
        return bool(self.status()["healthy"])

    def run(self, command: str, *arguments: str, timeout_s: float, check: bool = True) -> str:
        """`remotegpud COMMAND --data-dir DATA ARGUMENTS`; its standard output.

        Raises:
            AssertionError: it failed, with all that it printed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", command, "--data-dir", str(self.data), *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, cwd=REPOSITORY, check=False,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"remotegpud {command} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def processes(self) -> list[str]:
        """Processes of this installation that live, by the marker in their environment."""
        marker = f"REMOTEGPU_INSTANCE={self.data}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()[:200]!r}")
            except OSError:
                continue
        return found


def new_platform(data: Path, *options: str) -> Platform:
    """An installation that is not started yet, with ports of its own."""
    ports = [option for name in _PORTS for option in (f"--{name}", str(_free_port()))]
    block = str(_free_block())
    return Platform(data, ("--simulate", "2x4:A100-80GB", *ports, "--ray-base-port", block, *options))


@pytest.fixture(scope="session")
def platform(scratch: Path) -> Iterator[Platform]:
    """A running platform with two simulated hosts of four GPUs; after the session nothing of it is left."""
    if running := os.environ.get(_RUNNING):
        yield Platform(Path(running), ())
        return
    platform = new_platform(scratch / "p")
    try:
        platform.up()
        yield platform
    finally:
        if (platform.data / "instance.json").exists():
            platform.down()
    assert platform.processes() == []


@pytest.fixture(scope="session")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the people of the session keep who they are signed in as."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="session")
def operator(platform: Platform, profiles: Path) -> Person:
    """The platform's administrator, with a password of their own, and a price for the GPUs that there are.

    A GPU costs a unit of currency per second, so that every millisecond shows in a bill without rounding.
    """
    operator = Person(platform.public_url, profiles / "operator.json", "admin", "a pass phrase of an operator 1")
    if not (_RUNNING in os.environ and operator.signs_in()):
        operator.sign_in(platform.admin_password)
    operator.run("admin", "price", "set", "A100", "3600")
    return operator


@pytest.fixture(scope="session")
def lovelace(operator: Person, profiles: Path) -> Customer:
    return new_customer(operator, profiles, name="Lovelace Labs", owner="ada")


@pytest.fixture(scope="session")
def hopper(operator: Person, profiles: Path) -> Customer:
    return new_customer(operator, profiles, name="Hopper Computing", owner="grace")


def new_customer(operator: Person, profiles: Path, *, name: str, owner: str, balance: int = 10_000_000) -> Customer:
    """A customer with money, whose owner has signed in and chosen a password."""
    customer, first_password = unvisited_customer(operator, profiles, name=name, owner=owner, balance=balance)
    customer.owner.sign_in(first_password)
    return customer


def unvisited_customer(
    operator: Person, profiles: Path, *, name: str, owner: str, balance: int
) -> tuple[Customer, str]:
    """A customer whose owner has never signed in, and that owner's first password."""
    if _RUNNING in os.environ:  # where sessions before this one have left theirs
        name, owner = f"{name} {os.getpid()}", f"{owner}-{os.getpid()}"
    created = operator.json("admin", "customer", "create", name, "--owner", owner, "--balance", str(balance))
    person = Person(operator.address, profiles / f"{owner}.json", owner, f"a pass phrase of {owner} 1")
    return Customer(created["id"], name, balance, person), created["owner"]["password"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def _free_block() -> int:
    """The first of a thousand ports below those that the kernel gives out by itself, chosen by our process id."""
    blocks = [start for start in range(12_000, 31_000, _RAY_PORTS)]
    for turn in range(len(blocks)):
        start = blocks[(os.getpid() + turn) % len(blocks)]
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("0.0.0.0", start))
                second.bind(("0.0.0.0", start + 20))
            except OSError:
                continue
            return start
    raise RuntimeError("no block of free ports")
