"""A tenant's container seen from inside: what its user can run there, and what the engine says about it."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 120
_PYTHON = "/opt/jupyter/bin/python3"


@dataclass(frozen=True, slots=True)
class TenantContainer:
    name: str

    def run(self, *command: str, user: str = "1000:1000", stdin: str = "", check: bool = True) -> str:
        """Standard output of a command that the tenant runs.

        Raises:
            AssertionError: it failed, with what it printed.
        """
        done = subprocess.run(
            ["docker", "exec", "--interactive", "--user", user, self.name, *command],
            input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command[:3]} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, script: str, *arguments: str) -> Any:
        """What a script that the tenant runs prints, as JSON."""
        return json.loads(self.run(_PYTHON, "-", *arguments, stdin=script))

    def inspect(self) -> dict[str, Any]:
        done = subprocess.run(["docker", "inspect", self.name], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    @property
    def address(self) -> str:
        """Its address on its bridge."""
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    @property
    def gateway(self) -> str:
        """The host's address on its bridge."""
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["Gateway"])


def containers_of(environment: dict[str, Any]) -> list[TenantContainer]:
    """The containers there are of an environment, running or not."""
    done = subprocess.run(
        ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", f"name=rg-env-{environment['id']}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [TenantContainer(name) for name in done.stdout.split()]


def container_of(environment: dict[str, Any]) -> TenantContainer:
    """The one container of an environment."""
    (only,) = containers_of(environment)
    return only
