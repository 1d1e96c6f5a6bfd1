"""The `remotegpu` command as a person runs it: a process of its own, with a profile of its own."""

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_TIMEOUT_S = 180.0
_RENEWED_S = 400  # an access token lives for 900 seconds


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
        done = subprocess.run(
            self._command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=self._environment(),
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"remotegpu {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on: to be used as a context manager, which waits for its end."""
        return subprocess.Popen(self._command(*arguments), stdout=subprocess.PIPE, text=True, env=self._environment())

    def rest(self) -> httpx.Client:
        """The API as this person, without the command between: to be used as a context manager."""
        headers = {"Authorization": f"Bearer {_access_token(self, int(time.monotonic() // _RENEWED_S))}"}
        return httpx.Client(base_url=f"{self.address}/api/v1", headers=headers, timeout=60, trust_env=False)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def sign_in(self, first_password: str | None = None) -> None:
        """With the password they chose, or by choosing it in place of a first one."""
        passwords = (first_password, self.password) if first_password else (self.password,)
        lines = "".join(f"{password}\n" for password in passwords)
        self._login(lines, check=True)

    def signs_in(self) -> bool:
        """Whether the password they chose is theirs already."""
        return self._login(f"{self.password}\n", check=False).returncode == 0

    def _command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("remotegpu")), *arguments]

    def _environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REMOTEGPU_")}
        return {**environment, "REMOTEGPU_PROFILE": str(self.profile), "COLUMNS": "200"}

    def _login(self, lines: str, *, check: bool) -> subprocess.CompletedProcess[str]:
        arguments = ("login", self.address, "--username", self.username, "--password-stdin")
        return self.run(*arguments, stdin=lines, check=check)


@functools.cache
def _access_token(person: Person, period: int) -> str:
    """A new one in each period."""
    answer = httpx.post(
        f"{person.address}/api/v1/auth/login",
        json={"username": person.username, "password": person.password},
        timeout=60,
        trust_env=False,
    )
    return str(answer.raise_for_status().json()["access_token"])


@dataclass(frozen=True, slots=True)
class Customer:
    """`balance` is what it started with, in whole units of currency."""

    customer_id: str
    name: str
    balance: int
    owner: Person
