"""One command after another under watch: its output, its time, its end, and the notice that it has to give way."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from .files import Paths, now_ms, read_json
from .masking import Masking
from .output import STDERR, STDOUT, Output

TERM_S = 10.0  # between SIGTERM and SIGKILL where nobody said otherwise
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_LOOK_S = 1.0  # how often the notice is looked for when no signal tells of it
_READ_BYTES = 2**20
_F_SETPIPE_SZ = 1031
_PR_SET_CHILD_SUBREAPER = 36
_CLEAR_S = 5.0
_PREEMPTED = "preempted"
_OOM_SCORE = "/proc/self/oom_score_adj"
OOM_FIRST = "1000"


class Ended:
    """How a command ended: `signal` is the one that ended it, `code` what it exited with otherwise.

    `process` was its process, and the id of the session that it began.
    """

    def __init__(self, status: int, *, timed_out: bool, process: int = 0) -> None:
        self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        self.code = None if self.signal is not None else os.WEXITSTATUS(status)
        self.timed_out, self.process = timed_out, process


class Notice:
    """What the host says about the end: why, and until when (ms) the command may run."""

    def __init__(self, reason: str, deadline_ms: int) -> None:
        self.reason, self.deadline_ms = reason, deadline_ms
        self.told_at_ms = 0


class Supervisor:
    """Single-threaded but for the endpoint, which wakes it."""

    def __init__(
        self,
        paths: Paths,
        output: Output,
        hidden: list[bytes],
        checkpoint_signal: str,
        on_notice: Callable[[str], None],
    ) -> None:
        self._paths, self._output, self._on_notice = paths, output, on_notice
        self._signal = getattr(signal, checkpoint_signal, signal.SIGTERM)
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self._woken, False)
        self._poll = select.poll()
        self._streams: dict[int, tuple[int, Masking]] = {}
        self._ends = {name: self._open(stream, hidden) for name, stream in (("out", STDOUT), ("err", STDERR))}
        self._poll.register(self._woken, select.POLLIN)
        self._listener: socket.socket | None = None
        self._asked_to_end = False
        self._kill_at: float | None = None
        self._group: int | None = None
        self._looked_at = 0.0
        self._adopts = False
        self.notice: Notice | None = None
        self.checkpoint_at_ms: int | None = None
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def listen(self) -> str:
        """The endpoint's address. It is served from the first connection on."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._poll.register(self._listener, select.POLLIN)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(
        self,
        command: list[str],
        environment: dict[str, str],
        timeout_s: float | None = None,
        *,
        goes_on: Callable[[], bool] | None = None,
        leave: bool = False,
    ) -> Ended:
        """Run it to its end, and end with it what it leaves in its process group; with `leave`, only if it failed.

        It is ended too when `goes_on`, which is asked at least once a second, says that what it needs is gone.
        """
        process = self._spawn(command, environment)
        self._group, self._kill_at = process, None
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        timed_out = False
        while True:
            self._wait(ends_at)
            status = self._reap(process)
            if status is not None:
                break
            now = time.monotonic()
            if ends_at is not None and now >= ends_at:
                timed_out, ends_at = True, None
                self._send(signal.SIGTERM)
                self._kill_by(now + TERM_S)
            if goes_on is not None and not goes_on():
                goes_on = None
                self._send(signal.SIGTERM)
                self._kill_by(now + TERM_S)
            self._look_around(now)
            if self._kill_at is not None and now >= self._kill_at:
                self._send(signal.SIGKILL)
                self._kill_at = None
        if not leave or status != 0:
            self._send(signal.SIGKILL)
        self._group = None
        self._drain()
        return Ended(status, timed_out=timed_out, process=process)

    def adopt(self) -> None:
        """From now on processes that a command leaves become children of this one, wherever they went, for `clear`."""
        import ctypes

        self._adopts = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def clear(self) -> bool:
        """End all processes that the last command left, and give out what they and it wrote. Whether all are gone."""
        until = time.monotonic() + _CLEAR_S
        while self._adopts and _reap_one():
            if time.monotonic() > until:
                return False
            for child in _children():
                try:
                    os.kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it is gone
            time.sleep(0.001)
        self._drain()
        for stream, masking in self._streams.values():
            self._output.write(stream, masking.rest(), now_ms())
        return True

    def idle(self, longest_s: float) -> None:
        """Wait for a while, or less if the end is asked for."""
        now = time.monotonic()
        self._wait(now + longest_s)
        self._look_around(now)

    def say(self, text: str) -> None:
        """A line of the runner's own, in the command's output."""
        self._output.write(STDERR, f"remotegpu: {text}\n".encode(), now_ms())

    def close(self) -> None:
        """Give out what was held back; the streams are over."""
        for stream, masking in self._streams.values():
            self._output.write(stream, masking.rest(), now_ms())
        self._output.close(now_ms())

    def checkpointed(self) -> None:
        """The command says that its state is written. Called by the endpoint's threads."""
        self.checkpoint_at_ms = now_ms()
        self.wake()

    def _open(self, stream: int, hidden: list[bytes]) -> int:
        """A pipe for one stream; the end that the command writes to."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        try:
            fcntl.fcntl(read, _F_SETPIPE_SZ, _READ_BYTES)
        except OSError:
            pass  # this user's pipes are large enough already
        self._streams[read] = (stream, Masking(hidden))
        self._poll.register(read, select.POLLIN)
        return write

    def _spawn(self, command: list[str], environment: dict[str, str]) -> int:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, self._ends["out"], 1),
            (os.POSIX_SPAWN_DUP2, self._ends["err"], 2),
        ]
        defaults = [signal.SIGPIPE, signal.SIGXFSZ, *_SIGNALS]  # Python ignores the first two
        own = set_oom_score(OOM_FIRST)  # when memory is short the command goes, and its runner tells of it
        try:
            return os.posix_spawn(
                command[0], command, environment, file_actions=actions, setsid=True, setsigmask=[], setsigdef=defaults
            )
        finally:
            set_oom_score(own)

    def _reap(self, process: int) -> int | None:
        """The command's status if it has ended. Others that end are its children's, or theirs."""
        while True:
            done, status = os.waitpid(-1 if self._adopts else process, os.WNOHANG)
            if done in (0, process):
                return status if done else None

    def _look_around(self, now: float) -> None:
        if self._asked_to_end or now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look_for_notice()

    def _wait(self, ends_at: float | None) -> None:
        now = time.monotonic()
        until = min(at for at in (ends_at, self._kill_at, now + _LOOK_S) if at is not None)
        for descriptor, _ in self._poll.poll(max(0.0, until - now) * 1000):
            if descriptor in self._streams:
                self._read(descriptor)
            elif descriptor == self._woken:
                os.read(self._woken, 4096)
            else:
                self._serve()
        if self.notice is not None and self._done_with(self.notice):
            self._kill_by(now)

    def _done_with(self, notice: Notice) -> bool:
        """Whether the command said, after it was told, that its state is written."""
        return self.checkpoint_at_ms is not None and self.checkpoint_at_ms >= notice.told_at_ms

    def _read(self, descriptor: int) -> bool:
        stream, masking = self._streams[descriptor]
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        self._output.write(stream, masking.pass_on(data), now_ms())
        return bool(data)

    def _drain(self) -> None:
        """What is still in the pipes. Who writes on from another process group ends with the container."""
        for descriptor in self._streams:
            for _ in range(4):
                if not self._read(descriptor):
                    break

    def _serve(self) -> None:
        from .endpoint import Endpoint  # an HTTP server costs a start more than all the rest

        assert self._listener is not None
        self._poll.unregister(self._listener)
        Endpoint(self._listener, self._paths, self.checkpointed).start()

    def _look_for_notice(self) -> None:
        """Tell the command of the first one; a later one can only bring the end nearer."""
        notice = _read_notice(self._paths.notice)
        if notice is None and self._asked_to_end:
            notice = Notice("stopped", now_ms() + round(TERM_S * 1000))
        self._asked_to_end = False
        if notice is None:
            return
        if self.notice is None:
            self.notice = notice
            self._tell(notice)
        self._kill_by(time.monotonic() + max(0, notice.deadline_ms - now_ms()) / 1000)

    def _tell(self, notice: Notice) -> None:
        number = self._signal if notice.reason == _PREEMPTED else signal.SIGTERM
        notice.told_at_ms = now_ms()
        self._send(number)
        self._on_notice(f"{signal.Signals(number).name} to its processes, notice file and endpoint")

    def _kill_by(self, at: float) -> None:
        self._kill_at = at if self._kill_at is None else min(at, self._kill_at)

    def _send(self, number: int) -> None:
        if self._group is not None:
            try:
                os.killpg(self._group, number)
            except (ProcessLookupError, PermissionError):
                pass

    def _on_signal(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._asked_to_end = True

    def wake(self) -> None:
        """From a wait, in another thread."""
        try:
            os.write(self._waker, b"\0")
        except BlockingIOError:
            pass  # it is awake


def _reap_one() -> bool:
    """Whether there are children still."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    own, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it is gone
            if parent == own:
                found.append(int(name))
    return found


def _read_notice(path: str) -> Notice | None:
    try:
        document = read_json(path)
    except FileNotFoundError:
        return None
    return Notice(str(document["reason"]), int(str(document["deadline_ms"])))


def set_oom_score(value: str) -> str:
    """Of this process and what it starts; returns the one before."""
    try:
        with open(_OOM_SCORE, "r+", encoding="utf-8") as file:
            before = file.read().strip()
            file.seek(0)
            file.write(value)
        return before
    except OSError:
        return value
