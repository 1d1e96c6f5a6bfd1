"""The files that runner and host daemon share, and how they are written."""

from __future__ import annotations

import os
import time

from .plain_json import dumps, loads

IN, OUT = "/run/remotegpu/in", "/run/remotegpu/out"
WORKSPACE = "/workspace"


class Paths:
    """`inside` is read-only here and written by the host, `outside` the other way round.

    `workspace` is where the working directory is to be, at one place in all images where that may be made.
    """

    def __init__(self, inside: str = IN, outside: str = OUT, workspace: str = WORKSPACE) -> None:
        self.workspace = workspace
        self.order = f"{inside}/order.json"
        self.secrets = f"{inside}/secrets"
        self.archives = f"{inside}/archives"
        self.notice = f"{inside}/notice.json"
        self.given = f"{inside}/elements"
        self.hosts = f"{inside}/hosts"
        self.claim = f"{outside}/claim"
        self.status = f"{outside}/status.json"
        self.progress = f"{outside}/progress.json"
        self.told = f"{outside}/elements"
        self.log = f"{outside}/log"
        self.ray_log = f"{outside}/ray-start.log"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def read_json(path: str) -> dict[str, object]:
    """
    Raises:
        OSError
        ValueError: it is no JSON object.
    """
    with open(path, encoding="utf-8") as file:
        return loads(file.read())


def write_json(path: str, document: object) -> None:
    """Replace a file at once and whole."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(dumps(document))
    os.replace(temporary, path)


def claim(path: str) -> bool:
    """Whether this is the only time that the container is started: whatever Docker is asked, a command runs once."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def read_secrets(directory: str) -> dict[str, str]:
    values = {}
    for name in sorted(os.listdir(directory)):
        with open(f"{directory}/{name}", encoding="utf-8", newline="") as file:
            values[name] = file.read()
    return values
