"""The host's raylet: started by the daemon, outlives it, and is found again by the next one."""

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from node.daemon.config import HostConfig, HostDirectory
from node.ray_settings import HOST_LABEL, device_resource, environment
from scheduler.host_protocol import HostFacts

log = logging.getLogger(__name__)

HOST_DIR_VARIABLE = "REMOTEGPU_HOST_DIR"  # workers inherit it: so the agent finds its daemon
_OBJECT_STORE_BYTES = 80_000_000
_START_TIMEOUT_S = 60
_MAX_BACK_OFF_S = 60.0


class Raylet:
    def __init__(self, directory: HostDirectory, config: HostConfig, facts: Callable[[], HostFacts]) -> None:
        self._directory, self._config, self._facts = directory, config, facts
        self._process: psutil.Process | None = None
        self._failures, self._next_try = 0, 0.0
        # Shared by this machine's hosts: raylets that start at one instant take each other's ports.
        self._lock = directory.path.parent / ".raylet-start.lock"

    def view(self) -> dict[str, object]:
        runs = self.runs()
        return {"pid": self._process.pid if self._process and runs else None, "state": "running" if runs else "down"}

    def runs(self) -> bool:
        return self._process is not None and _lives(self._process)

    def keep(self) -> None:
        """Adopt a living raylet of this host, or start one, with back-off after failures."""
        if self._process is not None and _lives(self._process):
            return
        self._process = self._find()
        if self._process is not None or time.monotonic() < self._next_try:
            return
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another one starts, or one that a killed daemon has begun to start, maybe this host's
            self._process = self._find() or self._started(lock.fileno())
        self._failures = 0 if self._process else self._failures + 1
        self._next_try = time.monotonic() + min(2.0**self._failures, _MAX_BACK_OFF_S)

    def _find(self) -> psutil.Process | None:
        for process in psutil.process_iter(["name", "cmdline"]):
            ours = process.info["name"] == "raylet" and self._config.host_id in " ".join(process.info["cmdline"] or [])
            if ours and _lives(process):
                return process
        return None

    def _started(self, lock: int) -> psutil.Process | None:
        """`ray start` keeps the lock for as long as it runs, whatever becomes of this daemon; the raylet does not."""
        log_path = self._directory.path / "raylet.log"
        with log_path.open("ab") as output:
            try:
                done = subprocess.run(
                    self._command(),
                    env={**os.environ, **self._environment()},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=_START_TIMEOUT_S,
                    check=False,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
            except subprocess.TimeoutExpired:
                log.error("the raylet did not start in %d s: see %s", _START_TIMEOUT_S, log_path)
                return None
        if done.returncode:
            log.error("ray start failed with status %d: see %s", done.returncode, log_path)
        return self._find() if done.returncode == 0 else None

    def _command(self) -> list[str]:
        facts = self._facts()
        resources = {device_resource(gpu.uuid): 1 for gpu in facts.gpus}
        return [
            sys.executable, "-m", "ray.scripts.scripts", "start",
            f"--address={self._config.ray_address}",
            f"--node-ip-address={self._config.address}",
            f"--num-cpus={facts.cpu_count}",
            "--num-gpus=0",  # each GPU is a resource of its own
            f"--memory={facts.memory_bytes}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--resources={json.dumps(resources)}",
            f"--labels={HOST_LABEL}={self._config.host_id}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--dashboard-agent-listen-port={_free_port()}",
            "--disable-usage-stats",
            "--include-log-monitor=false",  # it sends workers' output to drivers, and ours want none
            "--log-color=false",
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {
            **environment(token_file=self._directory.ray_token),
            HOST_DIR_VARIABLE: str(self._directory.path),
            "HOME": str(self._directory.path),
        }


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
