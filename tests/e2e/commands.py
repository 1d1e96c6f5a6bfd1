"""The `remotegpu` command as a person runs it: a process of its own, with a profile of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 180.0


class CommandFailed(AssertionError):
    pass


@dataclass(frozen=True, slots=True)
class Person:
    """Someone at `address`; the session is kept in `profile`, the password is the one they chose."""

    address: str
    profile: Path
    username: str
    password: str

    def run(self, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        command = Path(sys.executable).with_name("remotegpu")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REMOTEGPU_")}
        done = subprocess.run(
            [str(command), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**environment, "REMOTEGPU_PROFILE": str(self.profile), "COLUMNS": "200"},
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"remotegpu {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def sign_in(self, first_password: str | None = None) -> None:
        """With the password they chose, or by choosing it in place of a first one."""
        passwords = (first_password, self.password) if first_password else (self.password,)
        lines = "".join(f"{password}\n" for password in passwords)
        self.run("login", self.address, "--username", self.username, "--password-stdin", stdin=lines)


@dataclass(frozen=True, slots=True)
class Customer:
    """`balance` is what it started with, in whole units of currency."""

    customer_id: str
    name: str
    balance: int
    owner: Person
