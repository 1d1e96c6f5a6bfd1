"""Heartbeats: what runs here, and in return how long it may go on. At once when a container starts or exits."""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from node.daemon.clock import ServerClock, boot_ms
from node.daemon.leases import HeldLease, Leases, LeaseState
from node.platform import NotRegisteredError, Platform, PlatformUnavailableError
from scheduler.host_protocol import AttemptReport, Heartbeat, HeartbeatReply, HostFacts, LeaseVerdict, PeerList

log = logging.getLogger(__name__)

_SOON_S = 0.005  # changes that come together make one heartbeat
_APART_S = 0.15
_AT_ONCE = 6


class Pace:
    """How soon the next heartbeat may come: what happens now and then is told at once, up to `at_once` times in a row;
    a host on which much happens tells it every `apart_s`, in fewer.
    """

    def __init__(self, at_once: int, apart_s: float, now_s: float) -> None:
        self._at_once, self._apart_s = at_once, apart_s
        self._left, self._at_s = float(at_once), now_s

    def begin(self, now_s: float) -> None:
        """One begins."""
        self._left = max(0.0, self._left_at(now_s) - 1)
        self._at_s = now_s

    def rest_s(self, now_s: float) -> float:
        """Until the next may begin."""
        return max(0.0, 1 - self._left_at(now_s)) * self._apart_s

    def _left_at(self, now_s: float) -> float:
        return min(float(self._at_once), self._left + (now_s - self._at_s) / self._apart_s)


class Heartbeats:
    def __init__(
        self,
        platform: Platform,
        clock: ServerClock,
        leases: Leases,
        *,
        interval_s: float,
        beat: Callable[[], Heartbeat],
        facts: Callable[[], HostFacts],
        end: Callable[[LeaseVerdict], None],
        learn_peers: Callable[[PeerList], None],
        acknowledge: Callable[[Iterable[AttemptReport]], None],
    ) -> None:
        self._platform, self._clock, self._leases = platform, clock, leases
        self._interval_s, self._beat, self._facts, self._end = interval_s, beat, facts, end
        self._learn_peers, self._acknowledge = learn_peers, acknowledge
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._pace = Pace(_AT_ONCE, _APART_S, time.monotonic())
        self._registered = False
        self.problem: str | None = "the platform has not answered yet"

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def soon(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            self._pace.begin(time.monotonic())
            try:
                self._exchange()
                self.problem = None
            except PlatformUnavailableError as error:
                # Its database may be of a time before this boot: then it must hear again what this host is.
                self._registered = self._registered and not isinstance(error, NotRegisteredError)
                if str(error) != self.problem:
                    log.warning("no heartbeat: %s", error)
                self.problem = str(error)
            except Exception as error:
                log.exception("the heartbeat failed")
                self.problem = f"heartbeat: {error}"
            if self._wake.wait(self._interval_s):
                time.sleep(max(_SOON_S, self._pace.rest_s(time.monotonic())))

    def _exchange(self) -> None:
        if not self._registered:
            self._platform.register(self._facts())
            self._registered = True
        beat = self._beat()
        sent = boot_ms()
        reply = self._platform.heartbeat(beat)
        self._clock.learn(reply.server_time_ms, sent, boot_ms())
        self._leases.forget_endings(beat.endings)
        self._acknowledge(beat.attempts)
        self._obey(reply)
        if reply.peers is not None:
            self._learn_peers(reply.peers)

    def _obey(self, reply: HeartbeatReply) -> None:
        held = {each.lease.allocation_uid: each for each in self._leases.held()}
        for verdict in reply.verdicts:
            mine = held.get(verdict.allocation_uid)
            if mine is None or mine.lease.generation != verdict.generation:
                continue
            if verdict.end:
                self._must_end(verdict, mine)
            elif mine.state == LeaseState.ACTIVE:
                self._leases.renew(verdict.allocation_uid, verdict.generation, verdict.run_until_ms)

    def _must_end(self, verdict: LeaseVerdict, mine: HeldLease) -> None:
        """A task may be given more time than its lease had."""
        if verdict.run_until_ms > mine.run_until_ms:
            self._leases.renew(verdict.allocation_uid, verdict.generation, verdict.run_until_ms)
        if mine.state == LeaseState.ACTIVE:
            self._end(verdict)
