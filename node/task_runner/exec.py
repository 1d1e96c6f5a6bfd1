"""A command beside the task's own, in the same container: in its working directory, with its variables and secrets.

Docker starts it with what the image says; what the task has beyond that comes from the files that its runner has.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import termios

from .files import Paths, read_json, read_secrets
from .run import variables, works_in
from .supervisor import OOM_FIRST, set_oom_score

_NOT_FOUND, _NOT_RUNNABLE = 127, 126  # as shells tell of it


def main(words: list[str], paths: Paths | None = None) -> int:
    """Become the command. `words` are the rows and columns of its terminal, or 0 and 0, and then the command's own."""
    rows, columns, command = int(words[0]), int(words[1]), words[2:]
    paths = paths or Paths()
    order = read_json(paths.order)
    if rows and columns:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = variables(paths, order, read_secrets(paths.secrets), _endpoint(paths))
    node = order.get("ray_node")
    if isinstance(node, dict):
        from .ray_cluster import variables_of  # most tasks have none

        environment.update(variables_of(node))
    directory = works_in(paths, order)
    if directory is not None:
        os.chdir(directory)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and by what it becomes
        signal.signal(ignored, signal.SIG_DFL)
    os.umask(0o022)
    set_oom_score(OOM_FIRST)
    try:
        os.execvpe(command[0], command, environment)
    except (FileNotFoundError, NotADirectoryError):
        return _failed(command[0], "there is no such command", _NOT_FOUND)
    except OSError as error:
        return _failed(command[0], error.strerror or str(error), _NOT_RUNNABLE)


def _endpoint(paths: Paths) -> str:
    """The task's own, which its runner has told of."""
    try:
        return str(read_json(paths.status)["endpoint"])
    except (OSError, ValueError, KeyError):
        return ""  # the task may have written over it


def _failed(command: str, why: str, code: int) -> int:
    sys.stderr.write(f"remotegpu: {command}: {why}\n")
    return code
