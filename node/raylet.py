"""The host's raylet: started by the daemon, outlives it, and is found again by the next one."""

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
from scheduler.host_protocol import HostFacts

log = logging.getLogger(__name__)

HOST_LABEL = "remotegpu-host"
HOST_DIR_VARIABLE = "REMOTEGPU_HOST_DIR"  # workers inherit it: so the agent finds its daemon
_OBJECT_STORE_BYTES = 80_000_000
_START_TIMEOUT_S = 60
_MAX_BACK_OFF_S = 60.0
# The same values as the head's and the controller's; docs/explanation/ray.md gives the reasons.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
    "RAY_raylet_report_resources_period_milliseconds": "20",
    "RAY_ROTATION_MAX_BYTES": str(32 * 2**20),
    "RAY_ROTATION_BACKUP_COUNT": "2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Raylet:
    def __init__(self, directory: HostDirectory, config: HostConfig, facts: Callable[[], HostFacts]) -> None:
        self._directory, self._config, self._facts = directory, config, facts
        self._process: psutil.Process | None = None
        self._failures, self._next_try = 0, 0.0

    def view(self) -> dict[str, object]:
        alive = self._process is not None and self._process.is_running()
        return {"pid": self._process.pid if self._process and alive else None, "state": "running" if alive else "down"}

    def keep(self) -> None:
        """Adopt a living raylet of this host, or start one, with back-off after failures."""
        if self._process is not None and _lives(self._process):
            return
        self._process = self._find()
        if self._process is not None or time.monotonic() < self._next_try:
            return
        started = self._start()
        self._process = self._find() if started else None
        self._failures = 0 if self._process else self._failures + 1
        self._next_try = time.monotonic() + min(2.0**self._failures, _MAX_BACK_OFF_S)

    def _find(self) -> psutil.Process | None:
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == "raylet" and self._config.host_id in " ".join(process.info["cmdline"] or []):
                return process if _lives(process) else None
        return None

    def _start(self) -> bool:
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
                )
            except subprocess.TimeoutExpired:
                log.error("the raylet did not start in %d s: see %s", _START_TIMEOUT_S, log_path)
                return False
        if done.returncode:
            log.error("ray start failed with status %d: see %s", done.returncode, log_path)
        return done.returncode == 0

    def _command(self) -> list[str]:
        facts = self._facts()
        resources = {f"gpu-{gpu.uuid}": 1 for gpu in facts.gpus}
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
            **_ENVIRONMENT,
            "RAY_AUTH_TOKEN_PATH": str(self._directory.ray_token),
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
