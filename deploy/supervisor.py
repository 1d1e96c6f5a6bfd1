"""The process supervisor (supervisord): one per installation, driven through its Unix socket.

It restarts what dies, with a growing delay, and rotates what the programs write.
"""

import contextlib
import os
import shlex
import sys
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

from deploy.instance import REPOSITORY, Instance
from deploy.processes import MARKER, wait_until
from deploy.progress import StepError
from deploy.shell import execute

_LOG_BYTES = 20 * 1024 * 1024
_LOG_BACKUPS = 3
_RETRIES = 60  # the delay grows by a second each time: half an hour, then the program is given up until the next `up`
_STOP_S = 90  # longer than any program's own time
_ENDED = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")
_ALREADY_STARTED, _NOT_RUNNING, _BAD_NAME = 60, 70, 10


@dataclass(frozen=True, slots=True)
class Program:
    """A supervised process. Stopped by `stop_signal`, killed after `stop_s` seconds."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: str = "TERM"
    stop_s: int = 15
    stop_group: bool = False


class Supervisor:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._socket = instance.run / "supervisor.sock"
        self._config = instance.run / "supervisord.conf"

    def write(self, programs: Sequence[Program]) -> None:
        """Write the configuration; secrets never stand in it, only in files that it points to."""
        blocks = [self._daemon_block(), *(self._program_block(program) for program in programs)]
        self._instance.logs.mkdir(parents=True, exist_ok=True)
        self._instance.run.mkdir(parents=True, exist_ok=True)
        self._instance.run.chmod(0o700)
        temporary = self._config.with_suffix(".new")
        temporary.write_text("\n".join(blocks))
        temporary.chmod(0o600)
        temporary.replace(self._config)

    def ensure_running(self) -> bool:
        """Start supervisord if it does not answer, else make it read the configuration; True if it was started."""
        if self.answers():
            self._reread()
            return False
        self._socket.unlink(missing_ok=True)
        # It puts itself into the background; what it says before that is the error.
        execute(
            [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(self._config)],
            timeout_s=30,
            cwd=REPOSITORY,
            env={MARKER: str(self._instance.data)},
        )
        if not wait_until(self.answers, timeout_s=20):
            raise StepError(f"supervisord did not start; see {self._instance.logs}/supervisord.log")
        return True

    def answers(self) -> bool:
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def start(self, name: str) -> None:
        """Start a program, unless it runs."""
        if self.state(name) in ("RUNNING", "STARTING"):
            return
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _ALREADY_STARTED:
                raise StepError(f"{name} can't be started: {fault.faultString}; see {self.log(name)}") from fault

    def stop(self, *names: str) -> None:
        """Stop programs, all at once, and wait for their end. Idempotent; without a supervisor nothing is done."""
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except OSError:
                return
            except xmlrpc.client.Fault as fault:
                if fault.faultCode not in (_NOT_RUNNING, _BAD_NAME):
                    raise StepError(f"{name} can't be stopped: {fault.faultString}") from fault

        def ended() -> bool:
            states = self.states()
            return all(states.get(name, "STOPPED") in _ENDED for name in names)

        # Each is killed after its own time; the supervisor itself then says that it ended.
        if not wait_until(ended, timeout_s=_STOP_S):
            raise StepError(f"{', '.join(names)} did not end within {_STOP_S} s")

    def state(self, name: str) -> str | None:
        """`RUNNING`, `STARTING`, `BACKOFF`, `STOPPED`, `FATAL`, ...; None where it is not known."""
        return self.states().get(name)

    def states(self) -> dict[str, str]:
        try:
            return {entry["name"]: entry["statename"] for entry in self._call("getAllProcessInfo")}
        except (OSError, xmlrpc.client.Error):
            return {}

    def pids(self) -> dict[str, int]:
        """Process ids of what runs."""
        return {entry["name"]: entry["pid"] for entry in self._call("getAllProcessInfo") if entry["pid"]}

    def shutdown(self) -> None:
        """End supervisord, and with it what it still runs."""
        with contextlib.suppress(OSError, xmlrpc.client.Error):
            self._call("shutdown")
        wait_until(lambda: not self.answers(), timeout_s=60)

    def log(self, name: str) -> Path:
        return self._instance.logs / f"{name}.log"

    def _call(self, method: str, *arguments: object) -> Any:  # Any: what XML-RPC answers differs by method
        transport = cast(xmlrpc.client.Transport, SupervisorTransport(None, None, f"unix://{self._socket}"))
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _reread(self) -> None:
        added, changed, removed = self._call("reloadConfig")[0]
        for name in (*changed, *removed):
            self._call("stopProcessGroup", name, True)
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)

    def _daemon_block(self) -> str:
        run, logs = self._instance.run, self._instance.logs
        return (
            f"[unix_http_server]\nfile={self._socket}\nchmod=0600\n"
            f"[supervisord]\nlogfile={logs}/supervisord.log\nlogfile_maxbytes={_LOG_BYTES}\nlogfile_backups={_LOG_BACKUPS}\n"
            f"pidfile={run}/supervisord.pid\nminfds=4096\nminprocs=200\nnodaemon=false\nsilent=true\n"
            f"{'user=root' if os.geteuid() == 0 else ''}\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        )

    def _program_block(self, program: Program) -> str:
        environment = ",".join(f"{key}={_variable(value)}" for key, value in sorted(program.environment.items()))
        lines = [
            f"[program:{program.name}]",
            f"command={' '.join(_argument(argument) for argument in program.command)}",
            f"directory={REPOSITORY if program.user is None else '/'}",
            f"environment={environment}",
            "autostart=false",
            "autorestart=true",
            "startsecs=2",
            f"startretries={_RETRIES}",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={program.stop_s}",
            f"stopasgroup={str(program.stop_group).lower()}",
            f"killasgroup={str(program.stop_group).lower()}",
            "redirect_stderr=true",
            f"stdout_logfile={self.log(program.name)}",
            f"stdout_logfile_maxbytes={_LOG_BYTES}",
            f"stdout_logfile_backups={_LOG_BACKUPS}",
        ]
        if program.user is not None:
            lines.append(f"user={program.user}")
        return "\n".join(lines) + "\n"


def _setting(value: str) -> str:
    """A value as supervisor's files take it: a percent sign starts an expansion, ` ;` a comment.

    Raises:
        StepError: it holds what the format has no way to say.
    """
    if " ;" in value or "\n" in value:
        raise StepError(f"{value!r} can't be passed on: it holds a semicolon after a space, or a line's end")
    return value.replace("%", "%%")


def _variable(value: str) -> str:
    # There are no escapes within the quotes of `environment=`.
    quote = "'" if '"' in value else '"'
    if quote in value:
        raise StepError(f"{value!r} can't be passed on: it holds both kinds of quotes")
    return f"{quote}{_setting(value)}{quote}"


def _argument(argument: str) -> str:
    return _setting(shlex.quote(argument))
