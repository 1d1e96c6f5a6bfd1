"""How a lease ends: containers stopped in order, the last usage written, network given back. Also after a crash."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import docker

from node.daemon.attempts import Attempts
from node.daemon.clock import ServerClock
from node.daemon.containers import Containers
from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, Engine, Json
from node.daemon.holders import is_holder
from node.daemon.leases import HeldLease, Leases, LeaseState
from node.daemon.meter import Meter
from node.daemon.networks import Networks
from node.daemon.removals import Removals
from node.daemon.spool import Spool
from scheduler.host_protocol import LeaseEnd, LeaseKind

log = logging.getLogger(__name__)


_EXIT_S = 2  # for a task's container whose command is over


class StillEndingError(Exception):
    """It was told to end and has time left; it ends without being asked again."""


@dataclass(frozen=True, slots=True)
class _Ended:
    at_ms: int
    exit_code: int | None


class Ending:
    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        containers: Containers,
        networks: Networks,
        meter: Meter,
        spool: Spool,
        clock: ServerClock,
        on_change: Callable[[], None],
        attempts: Attempts | None = None,
    ) -> None:
        self._engine, self._leases, self._containers = engine, leases, containers
        self._networks, self._meter, self._spool = networks, meter, spool
        self._clock, self._on_change, self._attempts = clock, on_change, attempts
        self._removals = Removals(containers)

    def end(
        self,
        allocation_uid: str,
        generation: int,
        grace_s: float,
        *,
        reason: str = "",
        wait_s: float | None = None,
        again: bool = True,
    ) -> LeaseEnd:
        """Stop and remove the lease's containers; returns when they are gone. Idempotent.

        A task is told the `reason` and may use the grace, which `again` may shorten where it was told before;
        `wait_s` is how long that is waited for, None: as long as it takes.

        Raises:
            LeaseEndedError: it was never here.
            StaleGenerationError
            StillEndingError
        """
        held = self._leases.get(allocation_uid, generation)
        self._leases.begin_end(allocation_uid, generation)
        if self._attempts is not None and held.state != LeaseState.ENDED and held.lease.kind == LeaseKind.TASK:
            self._attempts.give_way(held, reason, grace_s, again=again)
            if not self._attempts.wait(held, wait_s):
                raise StillEndingError
            grace_s = _EXIT_S
        with self._leases.lock(allocation_uid):
            held = self._leases.get(allocation_uid, generation)
            if held.state == LeaseState.ENDED:
                return self._told(held, _Ended(held.ended_at_ms or self._clock.now_ms(), held.exit_code))
            ended = _Ended(self._clock.now_ms(), None)
            for container_id in self._containers_of(held):
                ended = self._end_container(container_id, held, grace_s)
            self._containers.forget(allocation_uid)
            self._leases.finish_end(allocation_uid, ended.at_ms, ended.exit_code)
            if held.network:
                self._networks.give_back(held.network)
            if self._attempts is not None:
                self._attempts.lease_over(held)
        self._on_change()
        return self._told(held, ended)

    def remove_container(self, held: HeldLease) -> None:
        """At the Hub's word, with the lease going on. What the container ran is written first: nothing proves it later.

        Raises:
            docker.errors.NotFound: the lease has none.
        """
        self._end_container(self._containers.inspect(held.lease)["Id"], held, grace_s=0)

    def adopt(self) -> None:
        """After a restart: finish what was being ended, and end what runs here without a lease.

        A task that was told to end has its time: the watch goes on with it.
        """
        for entry in self._engine.containers():
            if is_holder(entry):
                continue
            labels = entry["Labels"]
            held = self._leases.find(labels.get(ALLOCATION_LABEL, ""))
            current = held is not None and labels.get(GENERATION_LABEL) == str(held.lease.generation)
            if not current or (held is not None and held.state == LeaseState.ENDED):
                log.warning("container %s has no lease here: it is ended", entry["Id"][:12])
                self._containers.remove(entry["Id"])
        for held in self._leases.held():
            if held.state == LeaseState.ENDING and held.lease.kind != LeaseKind.TASK:
                self.end(held.lease.allocation_uid, held.lease.generation, grace_s=0)

    def _containers_of(self, held: HeldLease) -> list[str]:
        """Of a task there is one, by its name. What an environment's lease has, its labels say."""
        if held.lease.kind != LeaseKind.TASK:
            return [
                entry["Id"] for entry in self._containers.of_lease(held.lease.allocation_uid, held.lease.generation)
            ]
        try:
            return [self._containers.inspect(held.lease)["Id"]]
        except docker.errors.NotFound:
            return []

    def _told(self, held: HeldLease, ended: _Ended) -> LeaseEnd:
        last = self._spool.last_of(held.lease.allocation_uid, held.lease.generation)
        return LeaseEnd(ended.at_ms, ended.exit_code, last)

    def _end_container(self, container_id: str, held: HeldLease, grace_s: float) -> _Ended:
        try:
            seen_ms = self._clock.now_ms()
            inspected: Json = self._engine.api.inspect_container(container_id)
            if inspected["State"]["Running"]:  # also while it is paused
                if inspected["State"]["Paused"]:
                    self._engine.api.unpause(container_id)
                self._engine.api.stop(container_id, timeout=int(grace_s))
                seen_ms = self._clock.now_ms()
                inspected = self._engine.api.inspect_container(container_id)
        except docker.errors.NotFound:
            return _Ended(self._clock.now_ms(), None)
        run = self._meter.observe(inspected, seen_ms, held)
        if held.lease.kind == LeaseKind.TASK and held.lease.nodes == 1:
            self._removals.add(container_id)
        else:  # its name, volume or network is needed by what comes next
            self._containers.remove(container_id)
        if run is None:  # it never started
            return _Ended(seen_ms, None)
        return _Ended(run.finished_ms or seen_ms, int(inspected["State"]["ExitCode"]))
