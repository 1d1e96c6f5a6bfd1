"""`remotegpu task exec` as a process, with pipes and with a terminal, against a platform on which all is `cat`."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from remotegpu import Client, Disconnected, NotFound, Refused
from tests.unit.task_platform import TaskPlatform, served

SIZE = b'{"rows":11,"cols":21}'
RUNNING = {"state": "running", "attempts": 1}
WAIT_S = 20


@pytest.fixture
def platform() -> TaskPlatform:
    platform = TaskPlatform()
    platform.add("train", RUNNING)
    return platform


@pytest.fixture
def address(platform: TaskPlatform) -> Iterator[str]:
    with served(platform) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "REMOTEGPU_API_KEY": "good", "REMOTEGPU_PROFILE": str(tmp_path / "none.json")}


def words(address: str, *more: str) -> list[str]:
    return [sys.executable, "-c", "from remotegpu.cli import main; main()", "--address", address, "task", "exec", *more]


def run(
    address: str, environment: dict[str, str], *more: str, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words(address, *more), input=given, capture_output=True, env=environment, timeout=WAIT_S)


class Typist:
    """The command at a terminal of its own, of 33 rows and 111 columns."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.terminal, inside = pty.openpty()
        self.resize(33, 111)
        self.before = termios.tcgetattr(inside)
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env=environment, start_new_session=True
        )
        self.inside, self.seen = inside, b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def until(self, text: bytes) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while text not in self.seen:
            assert time.monotonic() < deadline_s, self.seen
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.seen += os.read(self.terminal, 65536)

    def end(self) -> int:
        code = self.process.wait(WAIT_S)
        assert termios.tcgetattr(self.inside) == self.before
        os.close(self.inside)
        os.close(self.terminal)
        return code


def test_streams_are_told_apart_and_the_exit_code_is_the_commands(
    platform: TaskPlatform, address: str, environment: dict[str, str]
) -> None:
    platform.exit_code = 7
    content = bytes(range(4, 256)) * 1024  # no Ctrl-C
    done = run(address, environment, "train", "-i", "--rank", "1", "--", "cat", "-", "--rank", given=content)
    assert (done.returncode, done.stdout, done.stderr) == (7, content, content)
    assert platform.executed == [["cat", "-", "--rank"]]
    assert platform.asked[-1] == ("WS", "rank=1")


def test_without_i_there_is_no_input(platform: TaskPlatform, address: str, environment: dict[str, str]) -> None:
    done = run(address, environment, "train", "--", "cat", given=b"not passed on")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_terminal_passes_keys_and_sizes_on(platform: TaskPlatform, address: str, environment: dict[str, str]) -> None:
    platform.exit_code = 130
    environment = {name: value for name, value in environment.items() if name not in ("LINES", "COLUMNS")}
    typist = Typist(words(address, "train", "-it", "--", "cat"), environment)
    typist.type(b"x")  # no line: a raw terminal passes it on at once
    typist.until(b"xx")  # as both streams
    typist.resize(50, 132)
    typist.process.send_signal(signal.SIGWINCH)
    typist.until(b'{"rows":50,"cols":132}')
    typist.type(b"\x03")
    typist.until(b"\x03")
    assert typist.end() == 130
    assert platform.asked[-1] == ("WS", "rank=0&tty=1&rows=33&cols=111")


def test_ctrl_c_without_a_terminal_ends_it(platform: TaskPlatform, address: str, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        words(address, "train", "-i", "--", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.stdout.read(1) == b"x"
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 130
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize(
    ("more", "given", "code", "said"),
    [
        (("train", "-i", "--", "cat"), b"gone", 1, b"connection broke"),
        (("train", "--", "vanish"), b"", 5, b"vanish"),
        (("train", "--", "refuse"), b"", 5, b"refuse"),
        (("other", "--", "cat"), b"", 4, b"no task"),
        (("train",), b"", 2, b"after"),
        (("train", "-t", "--", "cat"), b"", 2, b"terminal"),
    ],
)
def test_what_goes_wrong(
    address: str, environment: dict[str, str], more: Sequence[str], given: bytes, code: int, said: bytes
) -> None:
    done = run(address, environment, *more, given=given)
    assert done.returncode == code and said in done.stderr, done.stderr


def test_refused_and_away(platform: TaskPlatform, address: str, environment: dict[str, str]) -> None:
    platform.refusal = {"status": 409, "code": "not_running", "detail": "The task does not run now."}
    done = run(address, environment, "train", "--", "cat")
    assert (done.returncode, done.stderr) == (5, b"error: The task does not run now.\n")


def test_the_sdk(platform: TaskPlatform, address: str) -> None:
    with Client(address, api_key="good") as client:
        task_id = client.tasks.find("train").id
        with client.tasks.exec(task_id, ["cat"], terminal=(10, 20)) as running:
            running.send(b"one")
            running.resize(11, 21)
            running.end_input()
            output = list(running)
        assert output == [
            ("stdout", b"one"),
            ("stderr", b"one"),
            ("stdout", SIZE),
        ]
        assert running.exit_code == 0
        with pytest.raises(Disconnected), client.tasks.exec(task_id, ["cat"]) as running:
            running.send(b"gone")
            list(running)
        platform.refusal = {"status": 404, "code": "not_found", "detail": "There is no such task."}
        with pytest.raises(NotFound), client.tasks.exec(task_id, ["cat"]):
            pass  # there is nothing
        platform.refusal = None
        with pytest.raises(Refused), client.tasks.exec(task_id, ["refuse"]) as running:
            list(running)
