"""Commands beside a task's own, on a real Docker Engine: as the task's user, with its variables, and ended in time."""

import base64
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from node.daemon.exec_sessions import MOST_OF_ATTEMPT
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for
from tests.process.daemon_tasks import Tasks

WAITS = "echo up; trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def tasks(host: DaemonHost, platform: FakePlatform) -> Tasks:
    return Tasks(host, platform)


@dataclass
class Exec:
    """A session, and what it wrote so far."""

    host: DaemonHost
    lease: Any
    command: tuple[str, ...]
    terminal: dict[str, int] | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    over: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        status, answer = start(self.host, self.lease, *self.command, terminal=self.terminal)
        assert status == 200, answer
        self.name = answer["session"]

    def read(self, wait_ms: int = 500) -> bool:
        """Whether it is over. The host forgets a session with the answer that says so."""
        if self.over:
            return True
        status, answer = self.host.call("exec_read", session=self.name, wait_ms=wait_ms)
        assert status == 200, answer
        self.stdout += base64.b64decode(answer["stdout"])
        self.stderr += base64.b64decode(answer["stderr"])
        self.exit_code, self.over = answer["exit_code"], bool(answer["over"])
        return self.over

    def until(self, text: bytes) -> None:
        wait_for(lambda: self.read() or text in self.stdout)
        assert text in self.stdout, (self.stdout, self.stderr)

    def finish(self) -> "Exec":
        wait_for(self.read)
        return self

    def write(self, data: bytes, *, end: bool = False) -> int:
        text = base64.b64encode(data).decode()
        status, answer = self.host.call("exec_write", session=self.name, data=text, end=end)
        assert status == 200, answer
        return int(answer["taken"])


def start(host: DaemonHost, lease: Any, *command: str, **more: Any) -> tuple[int, Any]:
    names = {name: lease[name] for name in ("allocation_uid", "generation")}
    return host.call("exec_start", **names | {"command": command} | more)


def processes(word: str) -> list[str]:
    """Of this whole machine, whose command has the word in it."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if word in line and "task_runner" not in line]


def test_it_is_as_the_tasks_command_and_its_streams_and_exit_code_come_back(host: DaemonHost, tasks: Tasks) -> None:
    shown = "id; pwd; umask; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; env | sort"
    lease = tasks.run(
        f"({shown}) > /tmp/shown; {WAITS}", secrets={"TOKEN": "hush-hush"}, environment={"A": "x y", "TASK_NAME": "t"}
    )
    tasks.running(lease)
    seen = Exec(host, lease, ("sh", "-c", f"cat /tmp/shown; echo ---; {shown}; echo no >&2; exit 7")).finish()
    own, _, executed = seen.stdout.decode().partition("---\n")
    assert (seen.stderr, seen.exit_code) == (b"no\n", 7)
    assert "TOKEN=hush-hush\n" in own and "A=x y\n" in own and "REMOTEGPU_ENDPOINT=http://127" in own
    assert steady(executed) == steady(own)
    assert "hush-hush" not in str(host.inspect(lease))
    assert host.call("exec_read", session=seen.name) == (409, {**no_session()})
    wait_for(lambda: host.inspect(lease)["ExecIDs"] is None)


def steady(text: str) -> list[str]:
    """Without what shells set of themselves."""
    return [line for line in text.splitlines() if not line.startswith(("_=", "SHLVL=", "OLDPWD=", "PWD="))]


def no_session() -> dict[str, Any]:
    detail = "the session has ended"
    return {"type": "about:blank", "status": 409, "code": "no_session", "detail": detail}


def test_input_goes_in_to_its_end_and_much_comes_out_as_it_was(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(WAITS)
    tasks.running(lease)
    content = bytes(range(256)) * 4096
    counted = Exec(host, lease, ("cat",))
    sent = 0
    while sent < len(content):
        part = content[sent : sent + 65536]
        taken = counted.write(part, end=sent + len(part) == len(content))
        sent += taken
        counted.read(wait_ms=0)
    assert counted.finish().stdout == content and counted.exit_code == 0
    missing = Exec(host, lease, ("no-such-command",)).finish()
    assert missing.exit_code == 127 and b"no such command" in missing.stderr
    refused = Exec(host, lease, ("/etc/passwd",)).finish()
    assert refused.exit_code == 126 and b"Permission denied" in refused.stderr


def test_who_does_not_read_makes_it_wait_and_who_is_not_read_is_told(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(WAITS)
    tasks.running(lease)
    unread = Exec(host, lease, ("sh", "-c", "head -c 20000000 /dev/zero; echo done >&2; touch /tmp/done"))
    unread.read()
    deaf = Exec(host, lease, ("sleep", "60"))
    sent = 0
    while taken := deaf.write(b"x" * 65536):
        sent += taken
        assert sent < 32 * 2**20
    assert Exec(host, lease, ("test", "-e", "/tmp/done")).finish().exit_code == 1
    assert unread.finish().exit_code == 0
    assert (len(unread.stdout), unread.stderr) == (20_000_000, b"done\n")


def test_the_end_of_output_waits_for_a_slow_reader(host: DaemonHost, tasks: Tasks) -> None:
    """Where Docker's own pipes are full at a command's end, it waits 2 s for a reader."""
    lease = tasks.run(WAITS)
    tasks.running(lease)
    sizes = range(1_200_000, 1_500_000, 40_000)
    sessions = [Exec(host, lease, ("head", "-c", str(size), "/dev/zero")) for size in sizes]
    time.sleep(4)  # not waited on: nobody reads for so long
    assert [len(session.finish().stdout) for session in sessions] == list(sizes)


def test_a_terminal_has_a_size_and_passes_signals_on(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(WAITS)
    tasks.running(lease)
    shell = Exec(host, lease, ("bash", "--norc"), terminal={"rows": 33, "columns": 111})
    shell.write(b"stty size; tty\n")
    shell.until(b"33 111")
    shell.until(b"/dev/pts")
    assert host.call("exec_resize", session=shell.name, rows=50, columns=132) == (200, {})
    shell.write(b"stty size\n")
    shell.until(b"50 132")
    shell.write(b"sleep 4567; echo went-on\n")
    wait_for(lambda: processes("sleep 4567"))
    shell.write(b"\x03")  # Ctrl-C: to what runs in front, not to the shell
    wait_for(lambda: not processes("sleep 4567"))
    shell.write(b"exit 3\n")
    assert shell.finish().exit_code == 3
    ended = Exec(host, lease, ("cat",), terminal={"rows": 24, "columns": 80})
    ended.write(b"", end=True)
    assert ended.finish().exit_code == 0


def test_typing_is_answered_at_once(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(WAITS)
    tasks.running(lease)
    echo = Exec(host, lease, ("cat",))
    echo.write(b"first")
    echo.until(b"first")
    took = []
    for number in range(20):
        began = time.monotonic()
        echo.write(b"%d." % number)
        echo.until(b"%d." % number)
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.1


def test_the_end_of_a_session_ends_what_it_runs_and_nothing_else(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(f"sleep 7001 & {WAITS}")
    tasks.running(lease)
    stubborn = "trap '' HUP; sleep 7002 & (sleep 7003 | sleep 7004) & sleep 7005"
    first = Exec(host, lease, ("bash", "-c", stubborn))
    other = Exec(host, lease, ("sleep", "7006"))
    wait_for(lambda: all(processes(f"sleep {number}") for number in range(7001, 7007)))
    assert host.call("exec_end", session=first.name) == (200, {})
    assert host.call("exec_end", session=first.name) == (200, {})
    wait_for(lambda: not any(processes(f"sleep {number}") for number in range(7002, 7006)))
    assert processes("sleep 7001") and processes("sleep 7006")
    assert host.end_lease(lease)[0] in (200, 409)
    wait_for(other.read)
    assert other.exit_code is None or other.exit_code > 128


def test_limits_and_fences(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(WAITS)
    tasks.running(lease)
    codes = {
        "stale_generation": start(host, lease | {"generation": 2}, "true"),
        "lease_ended": start(host, lease | {"allocation_uid": "nobody"}, "true"),
        "validation": start(host, lease),
    }
    assert {name: answer["code"] for name, (_, answer) in codes.items()} == {name: name for name in codes}
    environment = host.lease()
    host.run(environment, "sleep", "300")
    assert start(host, environment, "true")[1]["code"] == "not_running"
    sessions = [Exec(host, lease, ("cat",)) for _ in range(MOST_OF_ATTEMPT)]
    assert start(host, lease, "true")[1]["code"] == "too_many_sessions"
    host.call("exec_end", session=sessions[0].name)
    assert Exec(host, lease, ("true",)).finish().exit_code == 0
    assert host.end_lease(lease)[0] == 200
    assert start(host, lease, "true")[1]["code"] == "lease_ended"


def test_a_daemon_that_returns_ends_what_nobody_can_read_any_more(host: DaemonHost, tasks: Tasks) -> None:
    lease = tasks.run(f"sleep 7101 & {WAITS}")
    tasks.running(lease)
    Exec(host, lease, ("sleep", "7102"))
    wait_for(lambda: processes("sleep 7101") and processes("sleep 7102"))
    host.end()
    host.start()
    wait_for(lambda: not processes("sleep 7102"))
    assert processes("sleep 7101") and tasks.running(lease)
