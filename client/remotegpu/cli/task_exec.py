"""`remotegpu task exec`: what is typed goes to a command in a task, what that writes comes back."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated, NoReturn

import typer

from remotegpu.cli.session import connected
from remotegpu.cli.task_options import words_after_dashes
from remotegpu.cli.task_output import INTERRUPTED
from remotegpu.execution import Disconnected, Execution

_READ_BYTES = 64 * 2**10

Name = Annotated[str, typer.Argument(help="The task's name (the newest of that name), its id, or how its id begins.")]
Stdin = Annotated[bool, typer.Option("--stdin", "-i", help="Pass on what comes in here.")]
Tty = Annotated[bool, typer.Option("--tty", "-t", help="With a terminal, as for a shell.")]
Rank = Annotated[int, typer.Option("--rank", help="In that node.", min=0)]


def exec_in_task(context: typer.Context, name: Name, stdin: Stdin = False, tty: Tty = False, rank: Rank = 0) -> None:
    """Run the command after `--` in the container of a running task, and exit with its exit code.

    A shell: remotegpu task exec train -it -- bash
    """
    words = words_after_dashes(context)
    if not words:
        raise typer.BadParameter("give a command after `--`: remotegpu task exec train -it -- bash")
    if tty and not sys.stdin.isatty():
        raise typer.BadParameter("-t needs a terminal here; without one, leave it out")
    with connected(context) as client:
        task = client.tasks.find(name)
        with client.tasks.exec(task.id, words, rank=rank, terminal=_size() if tty else None) as execution:
            _relay(execution, stdin=stdin, tty=tty)


def _relay(execution: Execution, *, stdin: bool, tty: bool) -> NoReturn:
    with ExitStack() as stack:
        if tty:
            stack.enter_context(_raw_terminal())
        resized = stack.enter_context(_window_changes()) if tty else None
        threading.Thread(target=_send, args=(execution, stdin, tty, resized), daemon=True).start()
        try:
            for stream, data in execution:
                target = sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer
                target.write(data)
                target.flush()
        except KeyboardInterrupt:  # a terminal of its own gets that as input
            sys.exit(INTERRUPTED)
    sys.exit(execution.exit_code)


def _send(execution: Execution, stdin: bool, tty: bool, resized: int | None) -> None:
    """Until the input ends, or the connection."""
    own = [sys.stdin.fileno()] if stdin else []
    with suppress(Disconnected, OSError, ValueError):  # who reads the output tells of it; at the end all is closed
        if not stdin and not tty:
            execution.end_input()
        watched = own + ([resized] if resized is not None else [])
        while watched:
            ready, _, _ = select.select(watched, [], [])
            if resized in ready and resized is not None:
                os.read(resized, _READ_BYTES)
                execution.resize(*_size())
            if own and own[0] in ready:
                data = os.read(own[0], _READ_BYTES)
                if data:
                    execution.send(data)
                else:
                    execution.end_input()
                    watched.remove(own.pop())


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return min(max(1, size.lines), 1000), min(max(1, size.columns), 1000)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Each key goes to the command, Ctrl-C too."""
    import termios  # not everywhere
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSADRAIN)  # what was typed before stays
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _window_changes() -> Iterator[int]:
    """A descriptor that something can be read from after each change of the window's size."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)

    def changed(*_: object) -> None:
        with suppress(BlockingIOError):
            os.write(waker, b"\0")

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield woken
    finally:
        signal.signal(signal.SIGWINCH, before)
