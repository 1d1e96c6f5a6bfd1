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
    """Someone signed in at `address`; the session is kept in `profile`."""

    address: str
    profile: Path

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

    def sign_in(self, username: str, *passwords: str) -> None:
        """With a first password and a new one, the first is changed."""
        lines = "".join(f"{password}\n" for password in passwords)
        self.run("login", self.address, "--username", username, "--password-stdin", stdin=lines)
