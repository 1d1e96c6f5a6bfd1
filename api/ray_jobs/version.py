"""Which Ray this speaks like, found without importing it."""

import re
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

from pydantic import BaseModel

INTERFACE = "4"  # of the jobs' interface
_COMMIT = re.compile(r'^commit = "([0-9a-f]+)"', re.MULTILINE)


class Version(BaseModel):
    version: str
    ray_version: str
    ray_commit: str
    session_name: str


@cache
def installed() -> Version:
    """Of the Ray that is installed here."""
    return Version(version=INTERFACE, ray_version=version("ray"), ray_commit=_commit(), session_name="remotegpu")


def _commit() -> str:
    path = Path(str(distribution("ray").locate_file("ray/_version.py")))
    found = _COMMIT.search(path.read_text()) if path.is_file() else None
    return found[1] if found else "unknown"
