"""The attempts of tasks on this host: started by their leases alone, watched, told to give way, and reported.

What is known of one is in its directory and at Docker, so a daemon that comes back finds all of it again.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import docker

from node.daemon.attempt_directory import AttemptDirectories, AttemptDirectory
from node.daemon.attempt_ends import AttemptOutcome, exit_of, outcome
from node.daemon.attempt_start import AttemptStart, LeaseGoneError, Parts, StartError
from node.daemon.attempt_status import RunnerPhase, RunnerStatus, read_progress, read_status
from node.daemon.elements import ElementFeed
from node.daemon.engine import DOCKER_ERRORS, Json, docker_time_ms
from node.daemon.file_events import FileEvents
from node.daemon.kept_attempt import KeptAttempt, Key
from node.daemon.leases import HeldLease
from node.daemon.log_shipping import LogShipping, LogSource
from scheduler.host_protocol import AttemptPhase, AttemptReport, LeaseKind
from scheduler.states import AttemptEnd

log = logging.getLogger(__name__)

_MARGIN_MS = 3_000  # what the runner has beyond its own deadlines, before the container is killed
_TERM_MS = 10_000  # as the runner gives after a timeout
_RETRY_S = 1.0
_LAST_TELLING_S = 2.0
_MISSED = 3  # looks without the container, until it counts as gone
_PHASES = {
    RunnerPhase.SETTING_UP: AttemptPhase.SETTING_UP,
    RunnerPhase.RUNNING: AttemptPhase.RUNNING,
    RunnerPhase.ENDED: AttemptPhase.RUNNING,  # until its end is known
}


class Attempts:
    """Safe to use from many threads. `on_change` is called when there is news that should be told at once."""

    def __init__(
        self,
        parts: Parts,
        directories: AttemptDirectories,
        shipping: LogShipping,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._parts, self._directories, self._shipping, self._on_change = parts, directories, shipping, on_change
        self._lock = threading.Lock()
        self._kept: dict[Key, KeptAttempt] = {}
        self._files = FileEvents(self._file_changed)

    def start(self) -> None:
        """Go on with what an earlier daemon left, and clear away what it was about to."""
        held = {(each.lease.allocation_uid, each.lease.generation): each for each in self._parts.leases.held()}
        for uid, generation, directory in self._directories.all():
            if (uid, generation) not in held:
                self._clear(directory, uid, generation)
        for each in held.values():
            if each.lease.kind == LeaseKind.TASK:
                self.begin(each)
        self._files.start()

    def stop(self) -> None:
        self._files.stop()

    def begin(self, held: HeldLease) -> None:
        """Start what the lease is for, in the background. Idempotent."""
        lease = held.lease
        key = (lease.allocation_uid, lease.generation)
        directory = self._directories.of(*key)
        with self._lock:
            if key in self._kept:
                return
            report = AttemptReport(*key, phase=AttemptPhase.FETCHING)
            start = AttemptStart(self._parts, lease, directory, lambda phase, detail: self._tell(kept, phase, detail))
            kept = KeptAttempt(held, directory, report, start)
            self._kept[key] = kept
        until_ms = directory.noticed_until_ms()
        kept.kill_at_ms = None if until_ms is None else self._parts.clock.from_wall(until_ms)
        threading.Thread(target=self._run, args=(kept,), name=f"start-{lease.allocation_uid[:8]}", daemon=True).start()

    def reports(self) -> tuple[AttemptReport, ...]:
        return tuple(kept.report for kept in self._all())

    def acknowledge(self, reports: Iterable[AttemptReport]) -> None:
        """The platform has these: what is over here needs no telling any more."""
        for report in reports:
            key = (report.allocation_uid, report.generation)
            with self._lock:
                kept = self._kept.get(key)
                if kept is not None and kept.lease_over and kept.report == report:
                    del self._kept[key]

    def observe(self, held: HeldLease, inspected: Json, *, exited: bool, finished_ms: int | None) -> None:
        """What Docker says of its container."""
        kept = self._find(held)
        if kept is None:
            return
        kept.missed = 0
        ran = docker_time_ms(inspected["State"]["StartedAt"]) is not None  # else its start knows what became of it
        if exited and ran and not kept.done.is_set():
            self._container_over(kept, inspected, finished_ms)

    def exited(self, held: HeldLease, code: int, finished_ms: int) -> bool:
        """Its container has exited. Whether that tells its end: what has failed may have done so for its memory."""
        kept = self._find(held)
        status = None if kept is None else read_status(kept.directory.status)
        if kept is None or status is None or code != 0 or not status.succeeded:
            return False
        if not kept.done.is_set():
            succeeded = AttemptOutcome(AttemptEnd.EXITED, code, detail=status.detail)
            self._end(kept, succeeded, status, finished_ms, gone=True)
        return True

    def tick(self, seen: Collection[Key]) -> None:
        """Once a second: what takes longer than it may, and what has no container any more."""
        now_ms = self._parts.clock.now_ms()
        for kept in self._all():
            if kept.done.is_set():
                continue
            if kept.key not in seen and kept.order is not None and not kept.lease_over:
                kept.missed += 1
                if kept.missed >= _MISSED:
                    self._end(kept, AttemptOutcome(AttemptEnd.HOST_LOST, detail="its container is gone from the host"))
                    continue
            self._refresh(kept)
            self._limit(kept, now_ms)

    def command_began(self, held: HeldLease) -> int | None:
        """When, in server time and by its container's word; None: not yet."""
        kept = self._find(held)
        if kept is None:
            return None
        self._refresh(kept)
        return kept.report.running_at_ms

    def volume_sizes(self, held: HeldLease) -> dict[str, int]:
        """What each of its volumes may hold, by name."""
        kept = self._find(held)
        mounts = kept.order.mounts if kept is not None and kept.order is not None else ()
        return {mount.volume: mount.size_bytes for mount in mounts}

    def end_because(self, held: HeldLease, end: AttemptEnd, detail: str) -> None:
        """The host ends it: what it runs is killed; the lease goes on until the platform ends it."""
        kept = self._find(held)
        if kept is not None:
            self._end(kept, AttemptOutcome(end, detail=detail))
            self._kill(kept, "SIGKILL")

    def give_way(self, held: HeldLease, reason: str, grace_s: float, *, again: bool) -> None:
        """Tell it to end, and until when. Where it was told before, that stays, but that `again` may shorten it."""
        kept = self._find(held)
        if kept is None:
            return
        clock = self._parts.clock
        with self._parts.leases.lock(held.lease.allocation_uid):
            known, deadline_ms = kept.kill_at_ms, clock.now_ms() + round(grace_s * 1000)
            if kept.done.is_set() or (known is not None and (not again or known <= deadline_ms)):
                return
            kept.kill_at_ms = deadline_ms
            if kept.started:
                kept.directory.give_notice(reason or "ended", clock.to_wall(deadline_ms))
                self._kill(kept, "SIGTERM")

    def wait(self, held: HeldLease, longest_s: float | None) -> bool:
        """Whether its container may be taken away now: its end is known, or its time is over."""
        kept = self._find(held)
        if kept is None or not kept.started or kept.kill_at_ms is None:
            return True
        left_s = max(0, kept.kill_at_ms + _MARGIN_MS - self._parts.clock.now_ms()) / 1000
        kept.done.wait(left_s if longest_s is None else min(left_s, longest_s))
        return kept.done.is_set() or self._parts.clock.now_ms() >= kept.kill_at_ms + _MARGIN_MS

    def lease_over(self, held: HeldLease) -> None:
        """Its container is gone. The output stays until it is shipped."""
        kept = self._find(held)
        if kept is None:
            return
        self._refresh(kept)
        if kept.feed is not None:
            kept.feed.stop(_LAST_TELLING_S)
        if held.lease.nodes > 1:
            self._parts.gangs.leave(kept.key)
        kept.lease_over = True
        kept.done.set()
        self._files.remove(kept.key)
        self._clear(kept.directory, *kept.key)

    def _all(self) -> list[KeptAttempt]:
        with self._lock:
            return list(self._kept.values())

    def _find(self, held: HeldLease) -> KeptAttempt | None:
        with self._lock:
            return self._kept.get((held.lease.allocation_uid, held.lease.generation))

    def _run(self, kept: KeptAttempt) -> None:
        """Until it is started, or never will be."""
        while True:
            try:
                kept.directory.make()
                self._files.add(kept.directory.outside, kept.key)
                kept.order = kept.start.run()
                self._attend(kept)
                self._refresh(kept)
                return
            except StartError as error:
                self._end(kept, AttemptOutcome(error.end, detail=error.detail))
                return
            except LeaseGoneError:
                kept.done.set()
                return
            except DOCKER_ERRORS as error:
                log.warning("attempt of allocation %s waits for Docker: %s", kept.key[0], error)
            except Exception as error:
                log.exception("the attempt of allocation %s could not be started", kept.key[0])
                self._end(kept, AttemptOutcome(AttemptEnd.START_FAILED, detail=f"{type(error).__name__}: {error}"))
                return
            threading.Event().wait(_RETRY_S)

    def _attend(self, kept: KeptAttempt) -> None:
        """Of a worker's output that goes first of which the platform knows whose it is."""
        source = LogSource(*kept.key, kept.held.lease.rank, kept.directory.outside)
        self._shipping.attend(source, lambda: kept.feed.untold_from() if kept.feed is not None else None)

    def _clear(self, directory: AttemptDirectory, uid: str, generation: int) -> None:
        """Once its output is shipped. The platform hears of its end also where there never was any."""
        source = LogSource(uid, generation, directory.known_rank(), directory.outside)
        directory.forget_inside()
        self._shipping.finish(source, directory.remove)

    def _file_changed(self, key: Key) -> None:
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            self._refresh(kept)

    def _refresh(self, kept: KeptAttempt) -> None:
        """Take in what the runner says."""
        if not kept.started or kept.done.is_set():
            return
        status = read_status(kept.directory.status)
        if status is not None and status.phase != RunnerPhase.SETTING_UP:
            self._feed(kept)
        progress = read_progress(kept.directory.progress)
        with kept.lock:
            before = kept.report
            if before.phase == AttemptPhase.ENDED:
                return
            kept.report = replace(
                before,
                phase=_PHASES[status.phase] if status else AttemptPhase.SETTING_UP,
                detail="",
                running_at_ms=before.running_at_ms or self._moment(status.running_at_ms if status else None),
                progress=progress or before.progress,
                notice=status.notice if status else before.notice,
            )
            news = (kept.report.phase, kept.report.notice) != (before.phase, before.notice)
        if news:
            self._on_change()

    def _tell(self, kept: KeptAttempt, phase: AttemptPhase, detail: str) -> None:
        with kept.lock:
            before = kept.report
            if before.phase == AttemptPhase.ENDED or (before.phase, before.detail) == (phase, detail):
                return
            kept.report = replace(before, phase=phase, detail=detail)
        self._on_change()

    def _container_over(self, kept: KeptAttempt, inspected: Json, finished_ms: int | None) -> None:
        clock = self._parts.clock
        started = docker_time_ms(inspected["State"]["StartedAt"])
        status = read_status(kept.directory.status)
        if started is not None and clock.from_wall(started) < clock.booted_at_ms():
            ended = AttemptOutcome(AttemptEnd.HOST_LOST, detail="the host was started again")
        else:
            memory_bytes = kept.held.lease.memory_bytes
            exited = exit_of(inspected)
            ended = outcome(status, exited, memory_bytes=memory_bytes, timeout_s=kept.timeout_s)
        self._end(kept, ended, status, finished_ms, gone=True)

    def _feed(self, kept: KeptAttempt) -> ElementFeed | None:
        """What a worker is given its elements by, from when it may run them; None: it is none, or never was to run."""
        with kept.lock:
            if kept.feed is None and kept.order is not None and kept.order.array and not kept.done.is_set():
                kept.feed = ElementFeed(self._parts.platform, *kept.key, kept.directory)
                kept.feed.start()
            return kept.feed

    def _end(
        self,
        kept: KeptAttempt,
        ended: AttemptOutcome,
        status: RunnerStatus | None = None,
        finished_ms: int | None = None,
        *,
        gone: bool = False,
    ) -> None:
        """The first end stays. What became of a worker's elements is told before. `gone`: its container has exited."""
        kept.order = kept.order or kept.directory.known_order()  # a daemon that comes back may see its end first
        feed = self._feed(kept) if kept.started else None
        if feed is None:
            self._ended(kept, ended, status, finished_ms, gone=gone)
        else:
            feed.close(lambda: self._ended(kept, ended, status, finished_ms, gone=gone))

    def _ended(
        self,
        kept: KeptAttempt,
        ended: AttemptOutcome,
        status: RunnerStatus | None,
        finished_ms: int | None,
        *,
        gone: bool,
    ) -> None:
        told_ms = self._moment(status.ended_at_ms if status else None)
        with kept.lock:
            if kept.report.phase == AttemptPhase.ENDED:
                return
            kept.report = replace(
                kept.report,
                phase=AttemptPhase.ENDED,
                detail=ended.detail,
                running_at_ms=kept.report.running_at_ms or self._moment(status.running_at_ms if status else None),
                ended_at_ms=told_ms or finished_ms or self._parts.clock.now_ms(),
                end=ended.end,
                exit_code=ended.exit_code,
                signal=ended.signal,
                limit_hit=ended.limit_hit,
                gone=gone,
                progress=read_progress(kept.directory.progress) or kept.report.progress,
                notice=kept.notice(status),
            )
        kept.done.set()
        self._shipping.soon(*kept.key)  # who hears of its end asks what it wrote last
        self._on_change()

    def _limit(self, kept: KeptAttempt, now_ms: int) -> None:
        """The runner keeps its times itself; what it does not is done here."""
        timeout_s = kept.timeout_s
        running_at_ms = kept.report.running_at_ms
        if timeout_s is not None and running_at_ms is not None:
            latest_ms = running_at_ms + timeout_s * 1000 + _TERM_MS + _MARGIN_MS
            if now_ms > latest_ms:
                limit = f"timeout: {timeout_s} s"
                self._end(kept, AttemptOutcome(AttemptEnd.TIMED_OUT, signal=9, limit_hit=limit))
                self._kill(kept, "SIGKILL")
        if kept.kill_at_ms is not None and now_ms > kept.kill_at_ms + _MARGIN_MS:
            self._kill(kept, "SIGKILL")

    def _kill(self, kept: KeptAttempt, number: str) -> None:
        name = kept.held.lease.container_name
        try:
            if self._parts.containers.inspect(kept.held.lease)["State"]["Paused"]:
                self._parts.engine.api.unpause(name)
            self._parts.engine.api.kill(name, number)
        except docker.errors.APIError as error:
            log.info("container %s takes no %s: %s", name, number, error)  # it has ended by itself

    def _moment(self, wall_ms: int | None) -> int | None:
        """Server time of what the container's clock said; never later than now."""
        if wall_ms is None:
            return None
        return min(self._parts.clock.from_wall(wall_ms), self._parts.clock.now_ms())
