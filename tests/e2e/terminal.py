"""A command as a person at a terminal runs it: printed as it is, asked and answered there."""

import os
import pty
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 180.0


def at_terminal(
    command: str, *, answers: Sequence[str] = (), directory: Path, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Exit status and output of a shell command on a terminal of its own. Each prompt (`...: `) takes one answer.

    Raises:
        AssertionError: it did not end in time, or asked more than there are answers for.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execvpe("/bin/sh", ["sh", "-c", command], dict(environment))
    output, left, deadline = "", list(answers), time.monotonic() + _TIMEOUT_S
    try:
        while (chunk := _read(terminal, deadline - time.monotonic())) is not None:
            output += chunk
            if output.endswith(": "):
                assert left, f"{command} asks for more:\n{output}"
                os.write(terminal, f"{left.pop(0)}\n".encode())
    finally:
        os.close(terminal)  # hangs up on what still runs
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output


def _read(terminal: int, timeout_s: float) -> str | None:
    """What comes next; None at the end."""
    ready, _, _ = select.select([terminal], [], [], max(timeout_s, 0))
    assert ready, "the command did not end in time"
    try:
        return os.read(terminal, 65536).decode(errors="replace") or None
    except OSError:  # how Linux says that the other side is closed
        return None
