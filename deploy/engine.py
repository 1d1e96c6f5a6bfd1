"""Docker Engine: the one that answers, or one that we start."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from deploy.instance import Instance
from deploy.packages import has_systemd, search_path
from deploy.processes import wait_until
from deploy.progress import StepError
from deploy.shell import execute

DEFAULT_HOST = "unix:///var/run/docker.sock"
_READY_S = 60


@dataclass(frozen=True, slots=True)
class Engine:
    """How to reach an engine: `unix://...`, `tcp://...` or `ssh://...`."""

    host: str

    def client(self, *, timeout_s: int = 60) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, timeout=timeout_s, version="auto")

    def version(self) -> str | None:
        """The engine's version, None if it does not answer."""
        try:
            client = self.client(timeout_s=5)
            try:
                return str(client.version()["Version"])
            finally:
                client.close()
        except (DockerException, OSError):
            return None

    def wait(self) -> str:
        """The version, as soon as it answers.

        Raises:
            StepError: it did not within a minute.
        """
        if not wait_until(lambda: self.version() is not None, timeout_s=_READY_S, interval_s=0.2):
            raise StepError(f"Docker Engine at {self.host} does not answer within {_READY_S} s")
        return self.version() or "unknown"


def start_with_systemd() -> bool:
    """Start the machine's own unit, where systemd runs and has one."""
    if not has_systemd() or shutil.which("systemctl") is None:
        return False
    try:
        execute(["systemctl", "start", "docker"], timeout_s=90)
    except StepError:
        return False
    return True


def on_this_machine(host: str) -> bool:
    return host.startswith("unix://")


def can_be_started(host: str) -> bool:
    """Whether there could be an engine of our own: where one answers already, no `dockerd` need be installed."""
    return on_this_machine(host) and _dockerd() is not None


def daemon_command(host: str, directory: Path) -> list[str]:
    """`dockerd` in the foreground. Containers keep running while it is away.

    On another socket than the default it is an engine of its own, with everything below `directory`. Beside the
    machine's engine it makes no firewall rules: it would flush the other's first, and with them its ports and what
    keeps its networks apart. And it is not told to have no bridge: it would remove `docker0`, which is the other's.

    Raises:
        StepError: the host is not a Unix socket, or there is no `dockerd`.
    """
    if not on_this_machine(host):
        raise StepError(
            f"the Docker host {host} does not answer, and only an engine on this machine can be started: start it there"
        )
    program = _dockerd()
    if program is None:
        raise StepError("dockerd is not installed. Run as root: apt-get install docker.io")
    command = [program, "--live-restore", "--host", host, "--log-level", "warn"]
    if host != DEFAULT_HOST:
        command += [
            "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec"),
            "--pidfile", str(directory / "docker.pid"),
        ]  # fmt: skip
        beside = Path(DEFAULT_HOST.removeprefix("unix://")).exists()
        command += ["--iptables=false"] if beside else ["--bridge", "none"]
    return command


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=search_path())


def remember_started(instance: Instance) -> None:
    """Note that the engine is ours to end."""
    (instance.data / "engine.json").write_text(json.dumps({"host": instance.docker_host}) + "\n")


def started_by_us(instance: Instance) -> bool:
    try:
        return bool(json.loads((instance.data / "engine.json").read_text())["host"] == instance.docker_host)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def forget_started(instance: Instance) -> None:
    (instance.data / "engine.json").unlink(missing_ok=True)
