"""Where the public traces are."""

import os
from pathlib import Path


def directory() -> Path:
    """As `make bench-scheduler TRACES=DIR` names it."""
    if not os.environ.get("TRACES"):
        raise SystemExit("name the directory of the openb trace: make bench-scheduler TRACES=DIR")
    return Path(os.environ["TRACES"])
