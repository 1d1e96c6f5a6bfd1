"""A real Ray cluster for tests: a head and raylets with host labels, ports and directories of its own."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil

from cluster.head import RayHead
from node.ray_settings import HOST_LABEL, device_resource, environment
from tests.leftovers import processes_of
from tests.ports import free_ports
from tests.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
_PORTS_EACH = 120
_READY_S = 120.0
_ATTEMPTS = 5


@dataclass(slots=True)
class RayCluster:
    root: Path  # short: Ray makes sockets below it
    hosts: int = 2
    _base: int = 0
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._base = free_ports(_PORTS_EACH * (self.hosts + 1) + 2)
        self.root.mkdir(mode=0o700)
        self.token_file.write_text(secrets.token_hex(32))
        self.token_file.chmod(0o600)

    @property
    def token_file(self) -> Path:
        return self.root / "ray_token"

    @property
    def head(self) -> RayHead:
        ports = self._base + _PORTS_EACH * (self.hosts + 1)
        return RayHead(
            directory=self.root / "h",
            token_file=self.token_file,
            address="127.0.0.1",
            port=ports,
            dashboard_port=ports + 1,
            base_port=self._base,
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.head.port}"

    def start_head(self) -> None:
        self._start("head", self.head.arguments(), {})

    def start_host(self, number: int, *, devices: int = 2) -> None:
        """Start raylet `number` (1..hosts) of host `host_uid(NUMBER)` with devices `GPU-hNUMBER-0`, ..."""
        port = self._base + _PORTS_EACH * number
        resources = {device_resource(f"GPU-h{number}-{index}"): 1 for index in range(devices)}
        ports = {
            "--object-manager-port": port,
            "--node-manager-port": port + 1,
            "--dashboard-agent-listen-port": port + 2,
            "--dashboard-agent-grpc-port": port + 3,
            "--runtime-env-agent-port": port + 4,
            "--metrics-export-port": port + 5,
            "--min-worker-port": port + 20,
            "--max-worker-port": port + 119,
        }
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={self.address}",
            f"--temp-dir={self.root}/{number}", f"--labels={HOST_LABEL}={host_uid(number)}",
            f"--resources={json.dumps(resources)}", "--num-cpus=8", "--num-gpus=0", "--memory=8000000000",
            "--object-store-memory=80000000", "--disable-usage-stats", "--include-log-monitor=false",
            "--log-color=false", *(f"{option}={value}" for option, value in ports.items()),
        ]  # fmt: skip
        self._start(f"host-{number}", command, environment(token_file=self.token_file))

    def mend(self) -> None:
        """Start again what a test that failed has left ended."""
        parts = {"head": self.start_head}
        parts |= {f"host-{number}": partial(self.start_host, number) for number in range(1, self.hosts + 1)}
        for name, start in parts.items():
            process = self._processes.get(name)
            if process is not None and process.poll() is not None:
                self.kill(name)
            if name not in self._processes:
                start()

    def kill(self, name: str) -> None:
        """`kill -9` of everything that belongs to the head or a host."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not _group(process.pid), timeout_s=10, what=f"the end of {name}")

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self.kill(name)
        wait_for(lambda: not processes_of(self.root), timeout_s=15, what=f"no process of {self.root}")

    def _start(self, name: str, command: list[str], extra: dict[str, str]) -> None:
        """As under a supervisor, again: Ray gives up when a raylet takes more than 30 s on a loaded machine."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._start_once(name, command, extra)
            except AssertionError:
                if attempt == _ATTEMPTS:
                    raise
                self.kill(name)

    def _start_once(self, name: str, command: list[str], extra: dict[str, str]) -> None:
        log = self.root / f"{name}.log"
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        variables = {
            "PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore",
        } | extra  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables, start_new_session=True
            )
        self._processes[name] = process
        try:
            wait_for(lambda: _started(process, log), timeout_s=_READY_S, what=f"{name} to start")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()[-3000:]}\n{self._ray_logs()}") from error

    def _ray_logs(self) -> str:
        """The ends of what Ray's own processes said."""
        paths = sorted(self.root.glob("*/session_2*/logs/gcs_server.out")) + sorted(
            self.root.glob("*/session_2*/logs/raylet*.out")
        )
        return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-1500:]}" for path in paths)


def host_uid(number: int) -> str:
    return str(UUID(int=number))


def _started(process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, f"ended with {process.returncode}"
    return b"Ray runtime started" in log.read_bytes()


def _group(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
