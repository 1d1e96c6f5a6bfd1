"""Commands that people run in the containers of their tasks, beside the tasks' own.

A session is asked for its output again and again; when nobody has asked for a while, or the lease has ended, its
processes are ended. They run as the task's do: same user, same limits, no privilege.
"""

import base64
import logging
import secrets
import signal
import threading
import time
from dataclasses import dataclass, field

import docker

from node.daemon.clock import ServerClock
from node.daemon.container_spec import EXEC_COMMAND
from node.daemon.containers import Containers
from node.daemon.engine import DOCKER_ERRORS, Engine, Json
from node.daemon.exec_processes import end_session
from node.daemon.exec_stream import STDERR, STDOUT, ExecStream
from node.daemon.leases import LeaseEndedError, Leases, LeaseState
from scheduler.host_protocol import ExecOutput, LeaseKind

log = logging.getLogger(__name__)

MOST_OF_ATTEMPT = 8
MOST_OF_HOST = 16  # each holds a thread of the agent and one of ours while it waits
SILENCE_S = 30.0
_WRITE_S = 1.0  # how long input waits for who reads it, until it is sent again
_EXIT_S = 2.0  # how long Docker may take to know how a command ended whose output is over
_LOOK_S = 0.02
_KILL_S = 2.0  # after the hangup


class NoSessionError(Exception):
    """There is no such session, or none any more."""


class NotRunningError(Exception):
    """The task's command does not run."""


class TooManySessionsError(Exception):
    """As many as may are open."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """Its size. What a program does with another size than the window's is its own matter."""

    rows: int
    columns: int


@dataclass(slots=True, eq=False)
class _Session:
    allocation_uid: str
    generation: int
    container_id: str
    exec_id: str
    stream: ExecStream
    heard_at: float = field(default_factory=time.monotonic)
    asking: int = 0


@dataclass(frozen=True, slots=True)
class _Doomed:
    """Was told to end, and is killed when its time is over."""

    leader: int
    container_id: str
    kill_at: float


class ExecSessions:
    """Safe to use from many threads."""

    def __init__(self, engine: Engine, containers: Containers, leases: Leases, clock: ServerClock) -> None:
        self._engine, self._containers, self._leases, self._clock = engine, containers, leases, clock
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        self._starting: list[str] = []  # allocations
        self._doomed: list[_Doomed] = []

    def adopt(self) -> None:
        """End what an earlier daemon left: nobody can ask for its output any more."""
        for entry in self._engine.containers():
            for exec_id in self._inspect_container(entry["Id"]).get("ExecIDs") or ():
                found = self._inspect(exec_id) or {}
                if found.get("Running") and EXEC_COMMAND[-1] in found["ProcessConfig"].get("arguments", ()):
                    self._hang_up(exec_id, entry["Id"])

    def start(self, allocation_uid: str, generation: int, command: list[str], terminal: Terminal | None) -> str:
        """The session's name.

        Raises:
            StaleGenerationError, LeaseEndedError, NotRunningError, TooManySessionsError, docker.errors.APIError
        """
        with self._lock:
            open_for = [each.allocation_uid for each in self._sessions.values()] + self._starting
            if len(open_for) >= MOST_OF_HOST or open_for.count(allocation_uid) >= MOST_OF_ATTEMPT:
                raise TooManySessionsError
            self._starting.append(allocation_uid)
        try:
            session = self._make(allocation_uid, generation, command, terminal)
            name = secrets.token_hex(16)
            with self._lock:
                self._sessions[name] = session
            return name
        finally:
            with self._lock:
                self._starting.remove(allocation_uid)

    def _make(self, allocation_uid: str, generation: int, command: list[str], terminal: Terminal | None) -> _Session:
        held = self._leases.get(allocation_uid, generation)
        if held.state != LeaseState.ACTIVE or held.run_until_ms <= self._clock.now_ms():
            raise LeaseEndedError
        if held.lease.kind != LeaseKind.TASK:
            raise NotRunningError
        try:
            container = self._containers.inspect(held.lease)
        except docker.errors.NotFound as error:
            raise NotRunningError from error
        if not container["State"]["Running"] or container["State"]["Paused"]:
            raise NotRunningError
        api, tty = self._engine.api, terminal is not None
        size = (terminal.rows, terminal.columns) if terminal is not None else (0, 0)
        made = api.exec_create(container["Id"], [*EXEC_COMMAND, *map(str, size), *command], stdin=True, tty=tty)
        stream = ExecStream(api.exec_start(made["Id"], tty=tty, socket=True), tty=tty)
        return _Session(allocation_uid, generation, container["Id"], made["Id"], stream)

    def write(self, name: str, data: bytes, *, end: bool) -> int:
        """How many of the bytes were taken; the end of the input only when all were. Raises: NoSessionError."""
        session = self._asked(name)
        try:
            taken = session.stream.write(data, _WRITE_S)
            if end and taken == len(data):
                session.stream.end_input()
            return taken
        finally:
            self._answered(session)

    def read(self, name: str, wait_s: float) -> ExecOutput:
        """What was written, as soon as there is anything. The session is gone with the answer that it is over.

        Raises: NoSessionError.
        """
        session = self._asked(name)
        try:
            output = session.stream.read(wait_s)
        finally:
            self._answered(session)
        code = None
        if output.over:
            code = self._exit_code(session)
            self.end(name)
        return ExecOutput(_text(output.streams[STDOUT]), _text(output.streams[STDERR]), output.over, code)

    def resize(self, name: str, terminal: Terminal) -> None:
        """Raises: NoSessionError."""
        session = self._asked(name)
        try:
            self._engine.api.exec_resize(session.exec_id, height=terminal.rows, width=terminal.columns)
        except docker.errors.APIError as error:
            log.info("a terminal keeps its size: %s", error)  # it has ended, or has not begun
        finally:
            self._answered(session)

    def end(self, name: str) -> None:
        """Idempotent."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            self._hang_up(session.exec_id, session.container_id)
            session.stream.close()

    def tick(self) -> None:
        """Once a second: end those that nobody asks any more, or whose lease has ended; kill what was told to end."""
        now = time.monotonic()
        with self._lock:
            sessions = dict(self._sessions)
            due = [each for each in self._doomed if each.kill_at <= now]
            self._doomed = [each for each in self._doomed if each.kill_at > now]
        for each in due:
            end_session(each.leader, each.container_id, signal.SIGKILL)
        for name, session in sessions.items():
            silent = not session.asking and now - session.heard_at > SILENCE_S
            if silent or self._lease_over(session):
                self.end(name)
            elif session.stream.waits_for_reader() and self._has_ended(session):
                session.stream.take_in()

    def _asked(self, name: str) -> _Session:
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                raise NoSessionError
            session.asking += 1
        return session

    def _answered(self, session: _Session) -> None:
        with self._lock:
            session.asking -= 1
            session.heard_at = time.monotonic()

    def _lease_over(self, session: _Session) -> bool:
        held = self._leases.find(session.allocation_uid)
        return held is None or held.lease.generation != session.generation or held.state == LeaseState.ENDED

    def _has_ended(self, session: _Session) -> bool:
        found = self._inspect(session.exec_id)
        return found is not None and not found["Running"]

    def _exit_code(self, session: _Session) -> int | None:
        """None: it ended together with its container."""
        until = time.monotonic() + _EXIT_S
        while (found := self._inspect(session.exec_id)) is not None:
            if not found["Running"]:
                code: int | None = found["ExitCode"]
                return code
            if time.monotonic() > until:
                break
            time.sleep(_LOOK_S)
        return None

    def _hang_up(self, exec_id: str, container_id: str) -> None:
        found = self._inspect(exec_id)
        leader = int(found["Pid"]) if found is not None else 0
        if leader and end_session(leader, container_id, signal.SIGHUP):
            with self._lock:
                self._doomed.append(_Doomed(leader, container_id, time.monotonic() + _KILL_S))

    def _inspect(self, exec_id: str) -> Json | None:
        """None: its container is gone."""
        try:
            found: Json = self._engine.api.exec_inspect(exec_id)
        except DOCKER_ERRORS:
            return None
        return found

    def _inspect_container(self, container_id: str) -> Json:
        try:
            found: Json = self._engine.api.inspect_container(container_id)
        except docker.errors.NotFound:
            return {}
        return found


def _text(data: bytearray) -> str:
    return base64.b64encode(data).decode()
