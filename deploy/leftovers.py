"""What a killed supervisor leaves behind: its programs, running on without anybody who restarts them."""

import contextlib
import time

import psutil

from deploy.instance import Instance
from deploy.processes import end_processes, instance_processes
from deploy.programs import embedded_postgres

_GRACE_S = 10.0


def end_leftovers(instance: Instance) -> int:
    """End the programs of a supervisor that is gone, PostgreSQL last and cleanly; returns how many there were.

    Hosts' raylets and tenants' containers are left alone: the daemons adopt them.
    """
    ended = end_processes(
        [
            process
            for process in instance_processes(instance.data)
            if not _outlives(process) and not _is_postgres(process)
        ],
        grace_s=_GRACE_S,
    )
    server = embedded_postgres(instance)
    if server is not None and server.pid() is not None:
        server.stop()
        ended += 1
    return ended


def end_raylets(instance: Instance) -> int:
    """End the hosts' raylets, and with them the agents; returns how many there were.

    While the head answers they take their leave of it and are gone in a moment; without it they would wait for it.
    """
    return end_processes(
        [process for process in instance_processes(instance.data) if _is_raylet(process)], grace_s=_GRACE_S
    )


def end_everything(instance: Instance) -> int:
    """End every process of the installation but PostgreSQL, until none is found; returns how many there were."""
    ended = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [process for process in instance_processes(instance.data) if not _is_postgres(process)]
        if not found:
            break
        ended += end_processes(found, grace_s=_GRACE_S)
    return ended


def _outlives(process: psutil.Process) -> bool:
    """Whether it is a host's raylet, or one of its own: they outlive the daemon."""
    with contextlib.suppress(psutil.Error):
        chain = [process, *process.parents()]
        return any(_is_raylet(entry) for entry in chain)
    return False


def _is_raylet(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        # The head's own raylet ends with the head.
        return process.name() == "raylet" and "--head" not in process.cmdline()
    return False


def _is_postgres(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "postgres"
    return False
