"""Commands in running tasks, as a person runs them: `remotegpu task exec`, with pipes and at a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.e2e.commands import Customer
from tests.waiting import wait_for

_SMALL = ("--gpus", "1", "--gpu-model", "A100", "--cpus", "0.5", "--memory", "1GiB")
_COMMAND = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"


_TYPED_S = 60.0


class Typist:
    """A command at a terminal of its own, of 40 rows and 100 columns."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self._process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env=environment, start_new_session=True
        )
        os.close(inside)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def until(self, pattern: str) -> None:
        """Until it has come, after all that was looked for before."""
        deadline = time.monotonic() + _TYPED_S
        while (found := re.search(pattern, self._seen)) is None:
            assert time.monotonic() < deadline, self._seen
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._seen += os.read(self._terminal, 65536).decode(errors="replace")
        self._seen = self._seen[found.end() :]

    def end(self) -> int:
        code = self._process.wait(_TYPED_S)
        os.close(self._terminal)
        return code


@pytest.fixture(scope="module")
def customer(lovelace: Customer) -> Customer:
    return lovelace


@pytest.fixture(scope="module")
def task(customer: Customer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that runs, with a folder and a secret."""
    folder = tmp_path_factory.mktemp("exec")
    (folder / "here.txt").write_text("brought along\n")
    customer.owner.run("secret", "set", "EXEC_TOKEN", stdin="sesame-sesame\n")
    options = (*_SMALL, "--working-dir", str(folder), "--env", "COLOUR=blue", "--secret", "EXEC_TOKEN")
    customer.owner.run("run", "--detach", "--name", "exec", *options, "--", "sh", "-c", _COMMAND)
    wait_for(lambda: "up" in customer.owner.run("task", "logs", "exec").stdout, timeout_s=120, what="its output")
    yield "exec"
    customer.owner.run("task", "cancel", "exec")


def test_streams_input_and_exit_code(customer: Customer, task: str) -> None:
    script = "cat here.txt; echo $COLOUR $EXEC_TOKEN $TASK_NAME; cat; echo no >&2; exit 7"
    done = customer.owner.run("task", "exec", task, "-i", "--", "sh", "-c", script, stdin="typed\n", check=False)
    assert done.stdout.splitlines() == ["brought along", "blue sesame-sesame exec", "typed"]
    assert (done.stderr, done.returncode) == ("no\n", 7)
    assert "typed" not in customer.owner.run("task", "logs", task).stdout


def test_much_passes_both_ways_unchanged(customer: Customer, task: str) -> None:
    content = "".join(f"{number:07d}\n" for number in range(250_000))
    assert customer.owner.run("task", "exec", task, "-i", "--", "cat", stdin=content).stdout == content


def test_a_terminal_is_one(customer: Customer, task: str) -> None:
    """Typed as a person does: a shell, its size, Ctrl-C to what runs in it, and the shell's own exit code."""
    program = Path(sys.executable).with_name("remotegpu")
    known = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    command = [str(program), "task", "exec", task, "-it", "--", "bash", "--norc"]
    typist = Typist(command, {**known, "REMOTEGPU_PROFILE": str(customer.owner.profile), "TERM": "xterm"})
    typist.type("stty size\n")
    typist.until(r"40 100\r")
    began = time.monotonic()
    typist.type("echo $((41+1))\n")
    typist.until(r"42\r")
    assert time.monotonic() - began < 2
    typist.type("sleep 300\n")
    wait_for(lambda: "sleep 300" in "".join(processes(customer, task)), timeout_s=20, what="the sleep")
    typist.type("\x03")
    typist.type("echo code $?\n")
    typist.until(r"code 130\r")
    typist.type("exit 5\n")
    assert typist.end() == 5


def processes(customer: Customer, task: str) -> list[str]:
    listing = "import glob; [print(open(p).read().replace(chr(0), ' ')) for p in glob.glob('/proc/[0-9]*/cmdline')]"
    done = customer.owner.run("task", "exec", task, "--", "python3", "-c", listing, check=False)
    return done.stdout.splitlines()
