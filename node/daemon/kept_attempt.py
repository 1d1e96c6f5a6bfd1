"""What a daemon keeps of an attempt while it lasts."""

import threading
from dataclasses import dataclass, field

from node.daemon.attempt_directory import AttemptDirectory
from node.daemon.attempt_start import AttemptStart
from node.daemon.attempt_status import RunnerStatus
from node.daemon.elements import ElementFeed
from node.daemon.leases import HeldLease
from scheduler.host_protocol import AttemptOrder, AttemptReport

Key = tuple[str, int]  # allocation uid and generation


@dataclass(slots=True, eq=False)
class KeptAttempt:
    held: HeldLease
    directory: AttemptDirectory
    report: AttemptReport
    start: AttemptStart
    order: AttemptOrder | None = None
    kill_at_ms: int | None = None  # server time; set by a notice
    missed: int = 0
    lease_over: bool = False
    feed: ElementFeed | None = None  # of a worker that runs or has run
    done: threading.Event = field(default_factory=threading.Event)  # its end is known, or nothing will run
    lock: threading.Lock = field(default_factory=threading.Lock)  # of the report

    @property
    def key(self) -> Key:
        return self.held.lease.allocation_uid, self.held.lease.generation

    @property
    def started(self) -> bool:
        return self.start.started or self.directory.begun

    @property
    def timeout_s(self) -> int | None:
        """None for a worker too: each of its elements has that time."""
        return self.order.timeout_s if self.order is not None and not self.order.array else None

    def notice(self, status: RunnerStatus | None) -> str:
        """How it was told that it had to end, or why it was not; empty where that was not asked for."""
        if status is not None and status.notice:
            return status.notice
        if self.kill_at_ms is None:
            return ""
        return "not told: it ended before" if self.started else "not told: nothing of it ran yet"
