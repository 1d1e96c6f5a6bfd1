"""Once a second, and at each of Docker's events: what runs, is it proven, is it still allowed to run."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import docker

from node.daemon.attempts import Attempts
from node.daemon.clock import ServerClock
from node.daemon.disk import DiskWatch, Trees, trees_of
from node.daemon.ending import Ending
from node.daemon.engine import ALLOCATION_LABEL, DOCKER_ERRORS, GENERATION_LABEL, TASK_LABEL, Engine, Json
from node.daemon.leases import HeldLease, Leases, LeaseState
from node.daemon.meter import Meter, Run
from scheduler.host_protocol import ContainerReport, ContainerState, LeaseKind

log = logging.getLogger(__name__)

_TICK_S = 1.0
_EVENTS = ("start", "die", "pause", "unpause", "destroy")
_RETRY_S = 1.0
_CUT_OFF = "cut_off"  # the reason that a task is told when its lease ran out
_STATES = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "paused": ContainerState.PAUSED,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
    "removing": ContainerState.EXITED,
}
# Not reported as an end, with which the platform would end the lease: the Hub replaces what a start before left behind.
_REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class _Seen:
    state: ContainerState
    run: Run | None
    inspected: Json
    is_task: bool


class Watch:
    """Three threads: the second's tick, Docker's events, and one for each lease that passed its time."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        meter: Meter,
        clock: ServerClock,
        ending: Ending,
        disk: DiskWatch | None,
        *,
        grace_s: float,
        on_change: Callable[[], None],
        attempts: Attempts | None = None,
    ) -> None:
        self._engine, self._leases, self._meter, self._clock = engine, leases, meter, clock
        self._attempts = attempts
        self._ending, self._disk, self._grace_s, self._on_change = ending, disk, grace_s, on_change
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._seen: dict[str, _Seen] = {}
        self._reports: tuple[ContainerReport, ...] = ()
        self._ended_by_us: set[str] = set()

    def start(self) -> None:
        for name, work in (("watch", self._run), ("events", self._listen)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def reports(self) -> tuple[ContainerReport, ...]:
        return self._reports

    def tick(self) -> None:
        self._enforce()
        seen_ms = self._clock.now_ms()
        held = {each.lease.allocation_uid: each for each in self._leases.held()}
        found: dict[str, _Seen] = {}
        reports = []
        for entry in self._engine.containers():
            lease = held.get(entry["Labels"].get(ALLOCATION_LABEL, ""))
            if lease is None or entry["Labels"].get(GENERATION_LABEL) != str(lease.lease.generation):
                continue
            seen = self._look(entry, lease, seen_ms)
            if seen is not None:
                found[entry["Id"]] = seen
                self._tell_attempt(lease, seen)
                if entry["State"] != _REMOVING:
                    reports.append(_report(entry, lease, seen))
        changed = _states(found) != _states(dict(self._seen))
        self._seen, self._reports = found, tuple(reports)
        if changed:
            self._on_change()
        if self._attempts is not None:
            self._attempts.tick({(report.allocation_uid, report.generation) for report in reports})
        if self._disk is not None:
            self._disk.watch(self._written(found, held))

    def _look(self, entry: Json, held: HeldLease, seen_ms: int) -> _Seen | None:
        state = _STATES.get(entry["State"], ContainerState.EXITED)
        before = self._seen.get(entry["Id"])
        if before is not None and before.state == state and before.run is not None:
            run = before.run
            # The list does not tell one start from the next: Docker's "Up" time is no proof, so the events wake us.
            if state in (ContainerState.RUNNING, ContainerState.PAUSED):
                run = self._meter.prove(run, seen_ms, held)
            return _Seen(state, run, before.inspected, before.is_task)
        try:
            inspected = self._engine.api.inspect_container(entry["Id"])
        except DOCKER_ERRORS:
            return before  # gone in between, or Docker is away
        return self._observed(state, inspected, held, seen_ms)

    def _observed(self, state: ContainerState, inspected: Json, held: HeldLease, seen_ms: int) -> _Seen:
        run = self._meter.observe(inspected, seen_ms, held)
        return _Seen(state, run, inspected, held.lease.kind == LeaseKind.TASK)

    def _tell_attempt(self, held: HeldLease, seen: _Seen) -> None:
        if self._attempts is not None and held.lease.kind == LeaseKind.TASK:
            finished_ms = seen.run.finished_ms if seen.run else None
            exited = seen.state == ContainerState.EXITED
            self._attempts.observe(held, seen.inspected, exited=exited, finished_ms=finished_ms)

    def _written(self, found: Mapping[str, _Seen], held: Mapping[str, HeldLease]) -> dict[str, tuple[HeldLease, Trees]]:
        """What the containers write to, where Docker says it."""
        written = {}
        for key, seen in found.items():
            lease = held[seen.inspected["Config"]["Labels"][ALLOCATION_LABEL]]
            sizes = self._attempts.volume_sizes(lease) if self._attempts is not None and seen.is_task else {}
            trees = trees_of(seen.inspected, sizes)
            if trees is not None:
                written[key] = (lease, trees)
        return written

    def _enforce(self) -> None:
        """End what ran out of time, and what began to end and did not: by this daemon alone, whoever else is away."""
        now = self._clock.now_ms()
        for held in self._leases.held():
            uid, generation = held.lease.allocation_uid, held.lease.generation
            over = held.run_until_ms <= now
            if over and self._attempts is not None:  # whatever time it was given before
                self._attempts.give_way(held, _CUT_OFF, self._grace_s, again=True)
            if over or held.state == LeaseState.ENDING:
                self.end_in_background(uid, generation, again=False)

    def end_in_background(
        self,
        allocation_uid: str,
        generation: int,
        *,
        grace_s: float | None = None,
        reason: str = "",
        again: bool = True,
    ) -> None:
        """Without a word of how long it may take, as long as there is after a lease ran out."""
        if allocation_uid in self._ended_by_us:
            return
        self._ended_by_us.add(allocation_uid)

        def work() -> None:
            try:
                grace = self._grace_s if grace_s is None else grace_s
                self._ending.end(allocation_uid, generation, grace, reason=reason, again=again)
            except Exception:
                log.exception("lease %s could not be ended; it is tried again", allocation_uid)
                time.sleep(_RETRY_S)
            finally:
                self._ended_by_us.discard(allocation_uid)

        threading.Thread(target=work, name=f"end-{allocation_uid[:8]}", daemon=True).start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                self.tick()
            except Exception:
                # Whatever it was, the next second's look may work; the meter extends nothing meanwhile.
                log.exception("the watch failed")
                self._stopped.wait(_RETRY_S)
            self._wake.wait(_TICK_S)

    def _listen(self) -> None:
        filters: Mapping[str, object] = {**self._engine.filters, "type": "container", "event": list(_EVENTS)}
        while not self._stopped.is_set():
            try:
                for event in self._engine.api.events(decode=True, filters=dict(filters)):
                    self._hear(event)
            except DOCKER_ERRORS as error:
                log.debug("Docker's events broke off: %s", error)
            except Exception:  # what it was about, the next second's look finds
                log.exception("an event of Docker's was not understood")
            self._stopped.wait(_RETRY_S)

    def _hear(self, event: Json) -> None:
        labels = event["Actor"]["Attributes"]
        if TASK_LABEL in labels:
            # Its runner tells of the rest, and looking at all costs as much as a start does.
            if event["Action"] == "die":
                self._task_exited(event["id"], labels, event["timeNano"] / 1e6)
            return
        if event["Action"] == "start":
            self._seen.pop(event["id"], None)  # a new run: its start time must be read again
        self._wake.set()

    def _task_exited(self, container_id: str, labels: Mapping[str, str], at_wall_ms: float) -> None:
        """Docker's list names what has just exited as running for a while still, and the container itself answers
        when Docker has cleared up behind it: it is asked where the event says too little.
        """
        seen_ms = self._clock.now_ms()
        held = self._leases.find(labels.get(ALLOCATION_LABEL, ""))
        if held is None or held.state == LeaseState.ENDED or labels.get(GENERATION_LABEL) != str(held.lease.generation):
            return
        finished_ms = min(self._clock.from_wall(at_wall_ms), seen_ms)
        if self._attempts is not None and self._attempts.exited(held, int(labels["exitCode"]), finished_ms):
            return
        try:
            with self._leases.lock(held.lease.allocation_uid):  # a start that has failed takes away what it had made
                inspected = self._engine.api.inspect_container(container_id)
        except docker.errors.NotFound:
            return  # whoever has taken it away knows its end
        state = _STATES.get(inspected["State"]["Status"], ContainerState.EXITED)
        self._tell_attempt(held, self._observed(state, inspected, held, seen_ms))


def _states(found: Mapping[str, _Seen]) -> dict[str, ContainerState]:
    """Of what is news in itself: a task's container is reported as its attempt."""
    return {key: seen.state for key, seen in found.items() if not seen.is_task}


def _report(entry: Json, held: HeldLease, seen: _Seen) -> ContainerReport:
    state, run = seen.inspected["State"], seen.run
    exited = seen.state == ContainerState.EXITED
    return ContainerReport(
        allocation_uid=held.lease.allocation_uid,
        generation=held.lease.generation,
        container_id=entry["Id"],
        name=held.lease.container_name,
        state=seen.state,
        started_at_ms=run.started_ms if run else None,
        finished_at_ms=run.finished_ms if run else None,
        exit_code=int(state["ExitCode"]) if exited else None,
        oom_killed=bool(state.get("OOMKilled")) and exited,
    )
