"""The ports that an installation listens on: which are taken by others, and the option that chooses another."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from deploy.instance import Instance
from deploy.processes import instance_processes
from deploy.progress import StepError


@dataclass(frozen=True, slots=True)
class PortConflict:
    """`part` wants `port`, and `holder` has it; `option` of `up` chooses another."""

    port: int
    part: str
    option: str
    holder: str

    def __str__(self) -> str:
        return f"port {self.port} ({self.part}) is held by {self.holder}"

    @property
    def remedy(self) -> str:
        return f"end that, or choose another port with {self.option}"


def conflicts(instance: Instance) -> list[PortConflict]:
    """Ports that something else listens on, whatever its address, or that are wanted twice; one for each option."""
    listeners = _listeners()
    own = {process.pid for process in instance_processes(instance.data)}
    wanted: dict[int, str] = {}
    found: dict[str, PortConflict] = {}
    for port, part, option in instance.listening_ports():
        pids = listeners.get(port, set())
        if port in wanted:
            found.setdefault(option, PortConflict(port, part, option, f"this installation's {wanted[port]}"))
        elif pids and not pids & own:
            found.setdefault(option, PortConflict(port, part, option, _describe(pids)))
        wanted[port] = part
    return list(found.values())


def ensure_free(instance: Instance) -> None:
    """Nothing else has a port that the installation will listen on.

    Raises:
        StepError: something has; a line for each such port.
    """
    found = conflicts(instance)
    if found:
        raise StepError("\n".join(f"{conflict}: {conflict.remedy}" for conflict in found))


def _listeners() -> Mapping[int, set[int | None]]:
    """The processes that listen on each port; None for one that can't be seen, as in another container."""
    found: dict[int, set[int | None]] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            found.setdefault(connection.laddr.port, set()).add(connection.pid)
    return found


def _describe(pids: set[int | None]) -> str:
    for pid in sorted(pid for pid in pids if pid):
        try:
            return f"process {pid} ({psutil.Process(pid).name()})"
        except psutil.Error:
            continue
    return "a process that can't be seen from here"
