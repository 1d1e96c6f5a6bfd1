"""The processes of a command that Docker runs beside a container's own, ended from the host: Docker itself can't.

Docker's runtime makes each such command the leader of a session. All of that session goes, wherever it stands in it;
what has moved to a session of its own goes with the container.
"""

import os
import signal
from pathlib import Path

_PROC = Path("/proc")
_SESSION = 3  # the place in `/proc/PID/stat`, after the name
_ROUNDS = 5  # while it is gone through, a process may start another


def end_session(leader: int, container_id: str, number: signal.Signals) -> bool:
    """Send a signal to each process of the session that is in the container; whether there was any.

    Ids of processes are given out anew. So each is held first, looked at then, and sent the signal by what is held.
    """
    found: set[int] = set()
    for _ in range(_ROUNDS):
        before = len(found)
        for pid in (int(path.name) for path in _PROC.glob("[0-9]*")):
            if pid not in found and _signalled(pid, leader, container_id, number):
                found.add(pid)
        if len(found) == before:
            break
    return bool(found)


def _signalled(pid: int, leader: int, container_id: str, number: signal.Signals) -> bool:
    try:
        held = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _session_of(pid) != leader or container_id not in (_PROC / str(pid) / "cgroup").read_text():
            return False
        signal.pidfd_send_signal(held, number)
    except OSError:  # it has ended
        return False
    finally:
        os.close(held)
    return True


def _session_of(pid: int) -> int:
    """Raises: OSError."""
    text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    return int(text.rpartition(")")[2].split()[_SESSION])
