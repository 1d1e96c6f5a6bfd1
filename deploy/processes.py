"""Finding and ending the processes of one installation.

Every process that the launcher starts carries `REMOTEGPU_INSTANCE=<data directory>` in its environment, and so do
their children: they are found by that marker even when nobody remembers their ids.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARKER = "REMOTEGPU_INSTANCE"
_RETITLED = ("ray::", "ray-dashboard-")  # Ray's workers, the modules of its dashboard; PostgreSQL's backends too


def instance_processes(data: Path) -> list[psutil.Process]:
    """Every living process of the installation below `data`, but ourselves and our ancestors."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _belongs(process, data)]


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; empty if it is gone."""
    try:
        return [argument for argument in process.cmdline() if argument]
    except psutil.Error:
        return []


def end_processes(processes: Iterable[psutil.Process], *, grace_s: float) -> int:
    """Ask them to end, then kill what is left after `grace_s`; returns how many there were."""
    listed = list(processes)
    for process in listed:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(listed, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    return len(listed)


def wait_until(condition: Callable[[], bool], *, timeout_s: float, interval_s: float = 0.05) -> bool:
    """Whether `condition` came true within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval_s)
    return True


def _belongs(process: psutil.Process, data: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER) == str(data):
            return True
        # A process that writes its own title loses its environment in /proc.
        title = " ".join(process.cmdline())
        if title.startswith("postgres:"):
            return _below(process.cwd(), data)
        return title.startswith(_RETITLED) and any(_below(file.path, data) for file in process.open_files())
    except (psutil.Error, OSError):
        return False


def _below(path: str, directory: Path) -> bool:
    return Path(path).is_relative_to(directory)
