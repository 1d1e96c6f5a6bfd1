"""The usage meter: what Docker proves about running containers becomes windows, continuous and without overlap.

A run is one start of one container. Its first window begins at Docker's own start time, its last ends at Docker's own
finish time. What is billed is kept with the windows in one transaction, so a `kill -9` at any point loses and doubles
nothing: the next daemon goes on from there, and the same container still running proves the time between.

A task's run has a free time at its beginning, which leaves a gap there; what of it is owed after all comes last.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from node.daemon.clock import ServerClock
from node.daemon.engine import Json, docker_time_ms
from node.daemon.free_setup import Span, free_until, owed_at_end
from node.daemon.leases import HeldLease, Leases
from node.daemon.spool import Spool, SpoolFullError
from node.daemon.store import Store
from scheduler.host_protocol import LeaseKind, UsageWindow

log = logging.getLogger(__name__)

FLUSH_MS = 5_000
_KEEP_RUNS_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Run:
    container_id: str
    started_at: str  # Docker's own text: with the id it names the run
    allocation_uid: str
    generation: int
    started_ms: int
    billed_to_ms: int
    finished_ms: int | None


class Meter:
    """Safe to use from many threads."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        clock: ServerClock,
        leases: Leases,
        command_began: Callable[[HeldLease], int | None] = lambda _: None,
    ) -> None:
        """`command_began` says of a task when its command did, by its container's word; None: not yet."""
        self._store, self._spool, self._clock, self._leases = store, spool, clock, leases
        self._command_began = command_began
        self._lock = threading.RLock()

    def observe(self, inspected: Json, seen_ms: int, held: HeldLease) -> Run | None:
        """Take in what Docker says of a container; `seen_ms` is the server time just before Docker was asked.

        Returns its run as known now, None if it never started.
        """
        state = inspected["State"]
        started = docker_time_ms(state["StartedAt"])
        if started is None:
            return None
        with self._lock:
            run = self.find(inspected["Id"], state["StartedAt"])
            if run is None and self._of_old_boot(inspected["Id"], state["StartedAt"], started):
                return None
            if run is None:
                run = self._open(inspected["Id"], state, started, held)
            if run.finished_ms is not None:
                return run
            if state["Running"]:
                return self._prove(run, seen_ms, held, final=False)
            finished = docker_time_ms(state["FinishedAt"])
            # A step of the wall clock since then may put the finish anywhere: it was not after now.
            until = seen_ms if finished is None else min(self._clock.from_wall(finished), self._clock.now_ms())
            return self._prove(run, max(run.billed_to_ms, until), held, final=True)

    def prove(self, run: Run, seen_ms: int, held: HeldLease) -> Run:
        """Docker listed the run's container as running when asked after `seen_ms`."""
        with self._lock:
            current = self.find(run.container_id, run.started_at)
            if current is None or current.finished_ms is not None:
                return current or run
            return self._prove(current, seen_ms, held, final=False)

    def find(self, container_id: str, started_at: str) -> Run | None:
        row = self._store.one(
            "select container_id, started_at, allocation_uid, generation, started_ms, billed_to_ms, finished_ms"
            " from runs where container_id = ? and started_at = ? and boot_id = ?",
            container_id,
            started_at,
            self._clock.boot_id,
        )
        return None if row is None else Run(*row)

    def _of_old_boot(self, container_id: str, started_at: str, started_wall_ms: float) -> bool:
        """Nothing that ran before this boot is proven further by what Docker says after it."""
        known = self._store.one(
            "select 1 from runs where container_id = ? and started_at = ?", container_id, started_at
        )
        return known is not None or self._clock.from_wall(started_wall_ms) < self._clock.booted_at_ms()

    def _open(self, container_id: str, state: Json, started_wall_ms: float, held: HeldLease) -> Run:
        started = self._clock.from_wall(started_wall_ms)
        # An earlier run of the same container whose end nobody saw: it ended before this one began.
        last = self._store.one("select max(billed_to_ms) from runs where container_id = ?", container_id)
        started = max(started, last[0] if last and last[0] else started)
        lease = held.lease
        self._store.execute(
            "insert or ignore into runs values (?, ?, ?, ?, ?, ?, ?, null)",
            container_id,
            state["StartedAt"],
            self._clock.boot_id,
            lease.allocation_uid,
            lease.generation,
            started,
            started,
        )
        self._store.execute("delete from runs where billed_to_ms < ?", started - _KEEP_RUNS_MS)
        self._store.execute("delete from free_setups where to_ms < ?", started - _KEEP_RUNS_MS)
        return Run(container_id, state["StartedAt"], lease.allocation_uid, lease.generation, started, started, None)

    def _prove(self, run: Run, seen_ms: int, held: HeldLease, *, final: bool) -> Run:
        to_ms = min(seen_ms, held.run_until_ms)
        free_ms = self._free_ms(run, to_ms, held, final=final)
        if free_ms is None:
            return run
        spans = [(max(run.billed_to_ms, free_ms), to_ms)]
        if not final and to_ms - spans[0][0] < FLUSH_MS:
            return run
        if final and (owed := owed_at_end(started_ms=run.started_ms, free_ms=free_ms, ended_ms=max(to_ms, free_ms))):
            spans.append(owed)
        try:
            with self._store.transaction():
                self._write(run, spans, free_ms, held, final=final)
                self._store.execute(
                    "update runs set billed_to_ms = ?, finished_ms = ? where container_id = ? and started_at = ?",
                    max(to_ms, run.billed_to_ms),
                    seen_ms if final else None,
                    run.container_id,
                    run.started_at,
                )
        except SpoolFullError:
            log.error("the spool is full: usage of %s waits for room", run.allocation_uid)
            return run
        return self.find(run.container_id, run.started_at) or run

    def _free_ms(self, run: Run, to_ms: int, held: HeldLease, *, final: bool) -> int | None:
        """Up to when the run is free; its start for all but tasks. None: nothing is billed yet."""
        if held.lease.kind != LeaseKind.TASK:
            return run.started_ms
        row = self._store.one(
            "select to_ms from free_setups where container_id = ? and started_at = ?", run.container_id, run.started_at
        )
        if row is not None:
            return int(row[0])
        command_ms = self._command_began(held)
        return free_until(started_ms=run.started_ms, now_ms=to_ms, command_ms=command_ms, over=final)

    def _write(self, run: Run, spans: list[Span], free_ms: int, held: HeldLease, *, final: bool) -> None:
        windows = [
            window for from_ms, to_ms in spans if from_ms < to_ms for window in self._windows(run, from_ms, to_ms, held)
        ]
        if windows:
            self._spool.add(windows, last=final)
        if free_ms > run.started_ms:
            self._store.execute(
                "insert or ignore into free_setups values (?, ?, ?)", run.container_id, run.started_at, free_ms
            )

    def _windows(self, run: Run, from_ms: int, to_ms: int, held: HeldLease) -> list[UsageWindow]:
        return [
            UsageWindow(
                boot_id=self._clock.boot_id,
                sequence=-1,  # the spool numbers them
                allocation_uid=run.allocation_uid,
                generation=run.generation,
                container_id=run.container_id,
                device_uuid=share.uuid,
                milli=share.milli,
                from_ms=from_ms,
                to_ms=to_ms,
            )
            for share in held.lease.devices
        ]
