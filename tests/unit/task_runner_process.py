"""The runner as a plain process in a directory of its own, with what it writes read back."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.waiting import wait_for

RECORD = struct.Struct(">BBHQQI")
PACKAGE = Path(__file__).resolve().parents[2] / "node"
_START = (
    f"import sys; sys.path.insert(0, {str(PACKAGE)!r});"
    "from task_runner.run import main; from task_runner.files import Paths;"
    "sys.exit(main(Paths(*sys.argv[1:])))"
)
_EXEC = (
    f"import sys; sys.path.insert(0, {str(PACKAGE)!r});"
    "from task_runner.exec import main; from task_runner.files import Paths;"
    "sys.exit(main(sys.argv[4:], Paths(*sys.argv[1:4])))"
)
_ORDER: dict[str, Any] = {
    "setup": None,
    "environment": {},
    "archives": [],
    "timeout_s": None,
    "signal": "SIGTERM",
    "disk_bytes": 2**20,
}


class Runner:
    def __init__(self, path: Path, command: str, *, secrets: dict[str, str] | None = None, **order: Any) -> None:
        self.inside, self.outside = path / "in", path / "out"
        for directory in (self.inside / "secrets", self.inside / "archives", self.outside):
            directory.mkdir(parents=True)
        for name, value in (secrets or {}).items():
            (self.inside / "secrets" / name).write_text(value)
        (self.inside / "order.json").write_text(json.dumps(_ORDER | {"command": command} | order))
        self.workspace = path / "workspace"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Runner":
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, self.inside, self.outside, self.workspace],
            env={"PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self

    def code(self, timeout_s: float = 20) -> int:
        """Wait for its end; the exit code of the container."""
        assert self.process is not None
        _, errors = self.process.communicate(timeout=timeout_s)
        assert b"Traceback" not in errors, errors.decode()
        return self.process.returncode

    def run(self) -> int:
        return self.start().code()

    def execute(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """A command beside the task's own, to its end."""
        place = [str(path) for path in (self.inside, self.outside, self.workspace)]
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", _EXEC, *place, "0", "0", *command],
            env={"PATH": os.environ["PATH"], "HOME": "/"},
            capture_output=True,
            timeout=20,
        )

    def give(self, *indices: int, number: int = 1, over: bool = True) -> "Runner":
        """Elements of an array, after those given before."""
        path = self.inside / "elements"
        first = path.read_text().count("\n") if path.exists() else 0
        lines: list[dict[str, Any]] = [
            {"place": first + place, "index": index, "number": number} for place, index in enumerate(indices)
        ]
        with path.open("a") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in [*lines, *([{"over": True}] if over else [])])
        return self

    def told(self) -> list[dict[str, Any]]:
        """What became of elements, by the order of their ends."""
        path = self.outside / "elements"
        lines = path.read_text().splitlines() if path.exists() else []
        return [document for line in lines if "end" in (document := json.loads(line))]

    def notice(self, reason: str, grace_s: float) -> None:
        """As the host gives it: the file, and a signal that tells of it."""
        assert self.process is not None
        document = {"reason": reason, "deadline_ms": round((time.time() + grace_s) * 1000)}
        (self.inside / "notice.json").write_text(json.dumps(document))
        self.process.send_signal(signal.SIGTERM)

    @property
    def status(self) -> dict[str, Any]:
        path = self.outside / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def records(self) -> list[tuple[int, int, bytes]]:
        """Stream, position and data, from all segments."""
        found = []
        for path in sorted((self.outside / "log").glob("*.log")):
            content, place = path.read_bytes(), 0
            while place < len(content):
                version, stream, reserved, _, position, length = RECORD.unpack_from(content, place)
                assert (version, reserved) == (1, 0)
                place += RECORD.size + length
                found.append((stream, position, content[place - length : place]))
        return found

    def output(self, stream: int = 1) -> bytes:
        return b"".join(data for number, _, data in self.records() if number == stream)

    def wait_for_output(self, text: bytes) -> None:
        wait_for(lambda: text in self.output(), timeout_s=20, what=f"{text!r} in the output", every_s=0.01)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The endpoint, whose address the command printed as its first line."""
        address = self.output().split(b"\n")[0].decode()
        request = urllib.request.Request(f"{address}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
