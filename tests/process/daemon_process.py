"""A real host daemon as a process, with a directory and an id of its own, on the machine's Docker Engine."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

from node.daemon.config import HostConfig, HostDirectory, config_toml
from node.daemon.engine import Engine
from node.leave import leave
from scheduler.host_protocol import MAX_BATCH
from tests.process.daemon_platform import FakePlatform

IMAGE = "debian-bootstrap:bookworm"
_SETTINGS: dict[str, Any] = {
    "simulate": "2:A100-80GB",
    "heartbeat_interval_s": 0.5,
    "lost_margin_s": 4,
    "network_spares": 1,
}
REPOSITORY = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("not in time")


class DaemonHost:
    def __init__(self, path: Path, certificates: Path, platform: FakePlatform, **settings: Any) -> None:
        path.mkdir(mode=0o700)
        for name in ("ca.pem", "host.pem", "host.key"):
            shutil.copy(certificates / name, path / name)
        self.directory = HostDirectory(path)
        self.variables: dict[str, str] = {}
        self.config = HostConfig(
            host_id=str(uuid.uuid4()),
            name="test",
            internal_url=platform.url,
            **{**_SETTINGS, **settings},
        )
        self.directory.write("host.toml", config_toml(self.config))
        self.engine = Engine(self.config.docker_host, self.config.host_id)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, healthy: bool = True) -> None:
        """Start the daemon and wait until it answers, and is well unless `healthy` is False."""
        self.launch()
        wait_for(self.healthy if healthy else self.health, timeout_s=60)

    def launch(self) -> None:
        with (self.directory.path / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node.daemon", str(self.directory.path)],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **self.variables},
                stdout=log,
                stderr=log,
            )

    def health(self) -> dict[str, Any] | None:
        """None: it does not answer yet."""
        assert self.process is not None
        assert self.process.poll() is None, (self.directory.path / "log").read_text()
        try:
            found: dict[str, Any] = self.call("health")[1]
        except OSError:
            return None
        return found

    def healthy(self) -> bool:
        found = self.health()
        return found is not None and not found["problems"]

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def call(self, operation: str, /, **body: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("daemon", timeout=60)
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.settimeout(60)
            connection.sock.connect(str(self.directory.socket))
            connection.request("POST", f"/v1/{operation}", json.dumps(body))
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def lease(self, *, run_s: float = 120, generation: int = 1, uid: str | None = None, volume: bool = False) -> Any:
        uid = uid or str(uuid.uuid4())
        return {
            "allocation_uid": uid,
            "generation": generation,
            "customer_uid": str(uuid.uuid4()),
            "devices": [{"uuid": "SIM-a", "milli": 1000}, {"uuid": "SIM-b", "milli": 1000}],
            "cpu_milli": 500,
            "memory_bytes": 128 * 2**20,
            "disk_bytes": 2**30,
            "pids": 64,
            "run_until_ms": round((time.time() + run_s) * 1000),
            "image": IMAGE,
            "container_name": f"rgtest-{uid}",
            "home_volume": f"rgtest-home-{uid}" if volume else None,
        }

    def container(self, lease: Any, operation: str, /, generation: int | None = None, **arguments: Any) -> Any:
        return self.call(
            "container",
            allocation_uid=lease["allocation_uid"],
            generation=generation or lease["generation"],
            operation=operation,
            arguments=arguments,
        )

    def run(self, lease: Any, *command: str) -> None:
        """Grant the lease, make its container and start it."""
        assert self.call("grant_lease", **lease) == (200, {})
        status, answer = self.container(lease, "create_container", command=list(command), environment={"A": "b"})
        assert status == 200, answer
        status, answer = self.container(lease, "start")
        assert status == 200, answer

    def end_lease(self, lease: Any, grace_s: float = 0, reason: str = "") -> tuple[int, Any]:
        names = ("allocation_uid", "generation")
        return self.call("end_lease", grace_s=grace_s, reason=reason, **{name: lease[name] for name in names})

    def inspect(self, lease: Any) -> Any:
        try:
            return self.engine.api.inspect_container(lease["container_name"])
        except docker.errors.NotFound:
            return None

    def reaches(self, lease: Any, address: str, port: int) -> bool:
        """Whether the lease's container can connect there."""
        code = f"import socket; socket.create_connection(({address!r}, {port}), 1)"
        made = self.engine.api.exec_create(lease["container_name"], ["python3", "-c", code])["Id"]
        self.engine.api.exec_start(made)
        return bool(self.engine.api.exec_inspect(made)["ExitCode"] == 0)

    def windows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("spool_read", limit=MAX_BATCH)[1]["windows"]
        return found

    def close(self) -> None:
        self.end()
        leave(self.config, volumes=True)
        self.engine.api.close()
