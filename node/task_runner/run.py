"""The course of an attempt inside its container: unpack, set up, run the command, and say how it ended."""

from __future__ import annotations

import os
import sys

from .files import Paths, claim, now_ms, read_json, read_secrets, write_json
from .masking import hidden_texts
from .output import Output
from .supervisor import Ended, Supervisor

SETTING_UP, RUNNING, ENDED = "setting_up", "running", "ended"
EXITED, TIMED_OUT, SETUP_FAILED = "exited", "timed_out", "setup_failed"
TWICE = 125  # what a second start of the same container exits with
_FAILED = 1
_NOT_BEGUN = "its end was asked for before its command began"


class Attempt:
    """What is known of it is in `status.json`, replaced at each change."""

    def __init__(self, paths: Paths, order: dict[str, object]) -> None:
        self._paths, self._order = paths, order
        self._secrets = read_secrets(paths.secrets)
        self._output = Output(paths.log)
        hidden = hidden_texts(list(self._secrets.values()))
        self._supervisor = Supervisor(paths, self._output, hidden, str(order["signal"]), self._told)
        self._status: dict[str, object] = {"phase": SETTING_UP}

    def run(self) -> int:
        """The container's exit code."""
        endpoint = self._supervisor.listen()
        self._tell(endpoint=endpoint)
        environment = variables(self._paths, self._order, self._secrets, endpoint)
        failure = self._unpack()
        if failure is not None:
            self._supervisor.say(failure)
            return self._finish(SETUP_FAILED, None, failure)
        setup = self._order.get("setup")
        if setup:
            ended = self._supervisor.run(_shell(str(setup)), environment)
            if self._supervisor.notice is not None:
                return self._finish(EXITED, ended, _NOT_BEGUN)
            if ended.code != 0:
                return self._finish(SETUP_FAILED, ended, "")
        command, given = _shell(str(self._order["command"])), self._order.get("timeout_s")
        timeout_s = None if given is None else float(str(given))
        node = self._order.get("ray_node")
        if isinstance(node, dict):
            return self._run_in_ray(node, command, environment, timeout_s)
        self._tell(phase=RUNNING, running_at_ms=now_ms())
        if self._order.get("array"):
            return self._run_elements(command, environment, timeout_s)
        ended = self._supervisor.run(command, environment, timeout_s)
        return self._finish(TIMED_OUT if ended.timed_out else EXITED, ended, "")

    def _run_elements(self, command: list[str], environment: dict[str, str], timeout_s: float | None) -> int:
        from .array import run_elements  # most tasks are none

        failure = run_elements(self._paths, self._supervisor, self._output, command, environment, timeout_s)
        return self._finish(EXITED, Ended(_FAILED << 8 if failure else 0, timed_out=False), failure)

    def _run_in_ray(
        self, node: dict[str, object], command: list[str], environment: dict[str, str], timeout_s: float | None
    ) -> int:
        from .ray_cluster import RayCluster  # most tasks have none

        cluster = RayCluster(self._supervisor, node, environment, self._paths.ray_log)
        if not cluster.start():
            if not cluster.failure:
                return self._finish(EXITED, None, _NOT_BEGUN)
            self._supervisor.say(cluster.failure)
            return self._finish(SETUP_FAILED, None, cluster.failure)
        self._tell(phase=RUNNING, running_at_ms=now_ms())
        ended = cluster.run(command, environment, timeout_s) if cluster.leads else cluster.lend()
        if cluster.failure:
            self._supervisor.say(cluster.failure)
        return self._finish(TIMED_OUT if ended.timed_out else EXITED, ended, cluster.failure)

    def _tell(self, **changes: object) -> None:
        self._status.update(changes)
        write_json(self._paths.status, self._status)

    def _told(self, how: str) -> None:
        """The command was told to give way."""
        self._tell(notice=how)

    def _finish(self, end: str, ended: Ended | None, detail: str) -> int:
        self._supervisor.close()
        self._tell(
            phase=ENDED,
            ended_at_ms=now_ms(),
            end=end,
            exit_code=_FAILED if ended is None else ended.code,
            signal=None if ended is None else ended.signal,
            detail=detail,
            checkpoint_at_ms=self._supervisor.checkpoint_at_ms,
            log_bytes=self._output.position,
        )
        if ended is None or ended.code is None:
            return _FAILED if ended is None or ended.signal is None else 128 + ended.signal
        return ended.code

    def _unpack(self) -> str | None:
        """Unpack all archives, and go to the working directory if one goes there. What went wrong, in words."""
        archives = self._order["archives"]
        assert isinstance(archives, list)
        if not archives:
            return None
        from .unpacking import Allowance, UnpackError, unpack  # most tasks have none, and it takes long to import

        workspace = works_in(self._paths, self._order)
        allowance = Allowance(int(str(self._order["disk_bytes"])))
        for archive in archives:
            target = os.path.join(workspace or "/", str(archive["target"]))
            try:
                unpack(f"{self._paths.archives}/{archive['digest']}.zip", target, allowance)
            except UnpackError as error:
                return f"the upload for {target} can't be unpacked: {error}"
        if workspace is not None:
            os.chdir(workspace)
        return None


def variables(paths: Paths, order: dict[str, object], secrets: dict[str, str], endpoint: str) -> dict[str, str]:
    """What the commands of a task are given beside what the image says."""
    own = {
        "REMOTEGPU_ENDPOINT": endpoint,
        "REMOTEGPU_NOTICE_FILE": paths.notice,
        "REMOTEGPU_SECRETS_DIR": paths.secrets,
        "REMOTEGPU_HOSTS_FILE": paths.hosts,
    }
    given = order["environment"]
    assert isinstance(given, dict)
    return {**os.environ, **given, **secrets, **own}


def works_in(paths: Paths, order: dict[str, object]) -> str | None:
    """The directory that its uploads go to, made where it is not there; None: the image's own, none goes there."""
    archives = order["archives"]
    assert isinstance(archives, list)
    if all(str(archive["target"]).startswith("/") for archive in archives):
        return None
    return _workspace(paths.workspace)


def _workspace(wanted: str) -> str:
    """A directory to work in: the one that is wanted, or one where this user may make it."""
    for path in (wanted, os.path.join(os.environ.get("HOME", "/tmp"), "workspace")):
        try:
            os.makedirs(path, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK | os.X_OK):
            return path
    return "/tmp/workspace"


def _shell(text: str) -> list[str]:
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    return [shell, "-c", text]


def main(paths: Paths | None = None) -> int:
    """The exit code of the container, which is the command's. Other paths are for trying it without one."""
    paths = paths or Paths()
    if not claim(paths.claim):
        sys.stderr.write("this attempt was begun before: a command is run once\n")
        return TWICE
    os.umask(0o022)
    return Attempt(paths, read_json(paths.order)).run()
