"""`ray job submit -- true`: here, against a server that answers at once, and against a bare Ray head."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.figures import Figure, median
from tests.bench.world import World, world
from tests.ports import free_ports

_ROUNDS = 30
_BARE_ROUNDS = 8
_READY_S = 60.0
_TIMEOUT_S = 120
_RAY = str(Path(sys.executable).with_name("ray"))
_SMALL = ("--entrypoint-num-cpus", "0.25", "--entrypoint-memory", str(2**29))
_HEAD_PORTS = 40


def run() -> list[Figure]:
    with world("--simulate", "2x8:A100-80GB") as here, tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        home = Path(directory)
        with _null_server() as null:
            key = here.owner.account.create_api_key(name="bench", scopes=["tasks:read", "tasks:write"]).key
            ours, floor = _beside(here, key, null, home)
        with _bare_head(home) as head:
            bare = [_submit(head, "", home) for _ in range(_BARE_ROUNDS)]
    samples = {"ours_s": ours, "floor_s": floor, "bare_s": bare}
    return [
        Figure("ray job submit, above its own floor", median(ours) - median(floor), "s", 1.0, True, samples),
        Figure("ray job submit over a bare Ray head", median(ours) / median(bare), "x", 0.35, True, samples),
    ]


def _beside(here: World, key: str, null: str, home: Path) -> tuple[list[float], list[float]]:
    ours, floor = [], []
    for _ in range(_ROUNDS):
        ours.append(_submit(here.platform.public_url, key, home, *_SMALL))
        floor.append(_submit(null, key, home, *_SMALL))
    return ours, floor


def _submit(address: str, key: str, home: Path, *options: str) -> float:
    """Seconds until the command ends, having followed the job to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {
        "HOME": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_JOB_HEADERS": json.dumps({"Authorization": f"Bearer {key}"} if key else {}),
        "RAY_AUTH_MODE": "disabled",
    }
    began = time.monotonic()
    subprocess.run(
        [_RAY, "job", "submit", *options, "--", "true"],
        env=inherited | own, cwd=home, capture_output=True, timeout=_TIMEOUT_S, check=True,
    )  # fmt: skip
    return time.monotonic() - began


@contextmanager
def _null_server() -> Iterator[str]:
    port = free_ports(1)
    command = [sys.executable, "-m", "tests.bench.null_job_server", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for_port(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def _bare_head(home: Path) -> Iterator[str]:
    port = free_ports(_HEAD_PORTS + 2)
    dashboard = port + 1
    command = [
        _RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--temp-dir={home / 'r'}", "--num-cpus=2", f"--min-worker-port={port + 2}",
        f"--max-worker-port={port + 1 + _HEAD_PORTS}",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for_port(dashboard)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            process.terminate()  # `--block` takes everything below it down


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port}")
