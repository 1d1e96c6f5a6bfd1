"""A Ray of the task's own over its nodes: the head on the first, where the command runs; the others lend it theirs."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable

from .files import now_ms
from .meeting import OVER, READY, RUNNING, Meeting, Visit
from .supervisor import Ended, Supervisor

TOKEN = "RAY_AUTH_TOKEN"
_START_S = 180.0
_TRIES = 3  # Ray gives its parts half a minute to find each other: too little on a host that is busy
_PAUSE_S = 0.5
_TOGETHER_S = 3600.0  # the other nodes' images, uploads and setup
_AWAY_S = 30.0  # before that, the platform ends the others when it hears of the first one's end
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_agent_register_timeout_ms": "120000"}
_SHOWN_BYTES = 2000
_PARTS = ("raylet", "gcs_server")  # a node is none without
_NO_RAY = "there is no `ray` here: take an image that has it, or install it in `setup` (pip install ray)"
_SHELL = ["/bin/sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh"]


class RayCluster:
    """This node's part of it. `failure` says in words what went wrong, and is empty as long as all is well.

    `log` is a file for what `ray start` says, which is of interest if it fails.
    """

    def __init__(self, supervisor: Supervisor, node: dict[str, object], environment: dict[str, str], log: str) -> None:
        self._supervisor, self._node, self._log = supervisor, node, log
        self._rank, self._nodes = int(str(node["rank"])), int(str(node["nodes"]))
        self._address = str(node["address"] or _own_address())
        self._head = _head_of(node)
        self._token = environment[TOKEN]
        self._parts: dict[int, str] = {}
        self._meeting: Meeting | None = None
        self._visit: Visit | None = None
        self.failure = ""
        self._variables = variables_of(node)
        self._environment = {**_SETTINGS, **environment, "RAY_AUTH_MODE": "token"}
        self._environment.pop("RAY_OVERRIDE_RESOURCES", None)  # it would go before the options
        self._environment.pop("RAY_ADDRESS", None)

    @property
    def leads(self) -> bool:
        return self._rank == 0

    def start(self) -> bool:
        """Bring it up, on all nodes. False: it failed, or the end was asked for."""
        ray = shutil.which("ray", path=self._environment.get("PATH"))
        if ray is None:
            return self._fail(_NO_RAY)
        return self._start_head(ray) if self.leads else self._join_head(ray)

    def run(self, command: list[str], environment: dict[str, str], timeout_s: float | None) -> Ended:
        """The command, on the first node, while this node's part of Ray lives."""
        if self._meeting is not None:
            self._meeting.say(RUNNING)
        ended = self._supervisor.run(command, {**environment, **self._variables}, timeout_s, goes_on=self._lives)
        if self._meeting is not None:
            self._meeting.say(OVER)
        return ended if not self.failure or ended.code != 0 else _failed()

    def lend(self) -> Ended:
        """On another node, until the command has ended on the first, in whatever way."""
        self._hear(OVER, self._lives, late=None)
        return _failed() if self.failure else Ended(0, timed_out=False)

    def _start_head(self, ray: str) -> bool:
        if self._nodes > 1:
            self._meeting = Meeting(int(str(self._node["meeting_port"])), self._token, self._supervisor.wake)
        if not self._start_ray(ray, ["--head", f"--port={self._node['port']}", "--include-dashboard=false"]):
            return False
        if self._meeting is None:
            return True
        meeting, others = self._meeting, self._nodes - 1
        meeting.say(READY)
        return self._until(lambda: meeting.joined == others, self._lives, "the other nodes have not all joined Ray")

    def _join_head(self, ray: str) -> bool:
        port = int(str(self._node["meeting_port"]))
        self._visit = Visit((self._head, port), self._token, self._rank, self._supervisor.wake)
        if not self._hear(READY, lambda: True, "the first node's Ray has not started"):
            return False
        if not self._start_ray(ray, [f"--address={self._head}:{self._node['port']}"]):
            return False
        self._visit.join()
        return self._hear(RUNNING, self._lives, "the other nodes have not all joined Ray")

    def _start_ray(self, ray: str, where: list[str]) -> bool:
        options = [
            f"--node-ip-address={self._address}",
            f"--num-cpus={self._node['cpus']}",
            f"--num-gpus={self._node['gpus']}",
            f"--object-store-memory={self._node['object_store_bytes']}",
            "--disable-usage-stats",
        ]
        command = [*_SHELL, self._log, ray, "start", *where, *options]
        for left in reversed(range(_TRIES)):
            ended = self._supervisor.run(command, self._environment, _START_S, leave=True)
            if self._supervisor.notice is not None:
                return False
            if ended.code == 0:
                self._parts = _parts(ended.process)
                return self._lives() if self._parts else self._fail("Ray has started, and its raylet is not there")
            if left:
                self._supervisor.idle(_PAUSE_S)
        took = "took too long" if ended.timed_out else f"ended with {ended.code}"
        return self._fail(f"`ray start` {took}: {_end_of(self._log)}")

    def _hear(self, word: str, goes_on: Callable[[], bool], late: str | None) -> bool:
        """Whether the first node has said so, all being well until then."""
        visit = self._visit
        assert visit is not None

        def well() -> bool:
            return goes_on() and (READY not in visit.heard or visit.away_s < _AWAY_S or self._fail("node 0 is away"))

        return self._until(lambda: word in visit.heard or OVER in visit.heard, well, late)

    def _until(self, true: Callable[[], bool], goes_on: Callable[[], bool], late: str | None) -> bool:
        """Wait, without `late` for as long as it takes. False: it failed, or the end was asked for."""
        ends_at = time.monotonic() + _TOGETHER_S
        while not true():
            if not goes_on() or self._is_to_end(at_once=late is not None):
                return False
            if late is not None and time.monotonic() > ends_at:
                return self._fail(f"{late} within {_TOGETHER_S:.0f} s")
            self._supervisor.idle(_PAUSE_S)
        return True

    def _is_to_end(self, *, at_once: bool) -> bool:
        """A command that runs needs the other nodes for the whole of its grace."""
        notice = self._supervisor.notice
        return notice is not None and (at_once or now_ms() > notice.deadline_ms)

    def _lives(self) -> bool:
        gone = next((name for process, name in self._parts.items() if _name_of(process) != name), None)
        return gone is None or self._fail(f"Ray's {gone} on node {self._rank} has ended")

    def _fail(self, words: str) -> bool:
        """False. The first failure stays."""
        self.failure = self.failure or words
        return False


def variables_of(node: dict[str, object]) -> dict[str, str]:
    """By which programs on any of the nodes find this Ray; its token is one of the task's secrets."""
    return {"RAY_ADDRESS": f"{_head_of(node)}:{node['port']}", "RAY_AUTH_MODE": "token"}


def _head_of(node: dict[str, object]) -> str:
    """The address of the first node, which may be the only one."""
    return str(node["head_address"] or _own_address())


def _failed() -> Ended:
    return Ended(1 << 8, timed_out=False)


def _own_address() -> str:
    """By which this container is reached; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _parts(session: int) -> dict[int, str]:
    """The processes that make the node, by their ids: those in the session of what started them."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (name := _name_of(int(entry), session)) in _PARTS:
            found[int(entry)] = str(name)
    return found if "raylet" in found.values() else {}


def _name_of(process: int, session: int | None = None) -> str | None:
    """None: it has ended, or is of another session."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            before, _, after = file.read().rpartition(b")")
    except OSError:
        return None
    fields = after.split()
    if fields[0] in (b"Z", b"X") or (session is not None and int(fields[3]) != session):
        return None
    return before.partition(b"(")[2].decode(errors="replace")


def _end_of(path: str) -> str:
    """What was said last, in a line."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - _SHOWN_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""
