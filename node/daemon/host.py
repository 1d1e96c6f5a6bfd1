"""One host: its parts put together, and the operations that its socket offers."""

import base64
import logging
import uuid
from typing import Any

from node.certificate import CertificateKeeper
from node.daemon.archives import Archives
from node.daemon.attempt_directory import AttemptDirectories
from node.daemon.attempt_start import Parts
from node.daemon.attempts import Attempts
from node.daemon.clock import ServerClock, read_boot_id
from node.daemon.config import HostConfig, HostDirectory
from node.daemon.containers import BadArgumentsError, Containers
from node.daemon.disk import PROJECT_QUOTA, WATCHER, DiskWatch, Overruns, limit_kind
from node.daemon.ending import Ending
from node.daemon.engine import Engine, Json
from node.daemon.exec_sessions import ExecSessions, Terminal
from node.daemon.facts import host_facts
from node.daemon.firewall import Firewall
from node.daemon.gang_networks import GangNetworks
from node.daemon.heartbeat import Heartbeats
from node.daemon.holders import Holders
from node.daemon.images import Images
from node.daemon.leases import HeldLease as KeptLease
from node.daemon.leases import LeaseEndedError, Leases, LeaseState
from node.daemon.log_shipping import LogShipping
from node.daemon.meter import Meter
from node.daemon.metrics import HostCollector, HostGauges, MetricsServer
from node.daemon.networks import Networks
from node.daemon.peers import Peers, known_peers
from node.daemon.spool import Spool
from node.daemon.store import Store
from node.daemon.upkeep import Duty, Upkeep
from node.daemon.volumes import Volumes
from node.daemon.watch import Watch
from node.gpus.provider import open_gpus
from node.gpus.sampler import Sampler
from node.platform import Platform
from node.raylet import Raylet
from scheduler.host_protocol import (
    ExecOutput,
    Heartbeat,
    HeldLease,
    HostFacts,
    Lease,
    LeaseEnd,
    LeaseKind,
    LeaseVerdict,
    UsageBatch,
)
from scheduler.states import AttemptEnd

log = logging.getLogger(__name__)

_UPKEEP_S = 5.0
_RAYLET_S = 1.0
_EXECS_S = 1.0
_END_WAIT_S = 5.0  # how long an end is waited for at the platform's word, before it is asked again


class Host:
    """Built and started once per daemon. Its operations are safe to call from many threads."""

    def __init__(self, directory: HostDirectory, config: HostConfig) -> None:
        self.config = config
        self.boot_id, self.daemon_id = read_boot_id(), uuid.uuid4().hex
        self._gpus = open_gpus(config.simulate, config.host_id)
        self._sampler = Sampler(self._gpus)
        self._engine = Engine(config.docker_host, config.host_id)
        self._store = Store(directory.database)
        self._clock = ServerClock(self._store, self.boot_id)
        self._leases, self._spool = Leases(self._store), Spool(self._store, self.boot_id)
        self._meter = Meter(
            self._store, self._spool, self._clock, self._leases, lambda held: self._attempts.command_began(held)
        )
        self._disk_limit = limit_kind(self._engine)
        self._firewall = Firewall(config, known_peers(self._store).addresses)
        self._peers = Peers(self._store, self._firewall)
        self._volumes = Volumes(self._engine, quota=self._disk_limit == PROJECT_QUOTA)
        self._networks = Networks(self._engine, address_range=config.network_range, spares=config.network_spares)
        self._gangs = GangNetworks(self._engine, self._firewall, port=config.overlay_port)
        self._containers = self._make_containers(directory)
        self._platform = Platform(config, directory)
        self._holders = Holders(self._engine)
        self._shipping = LogShipping(self._platform)
        self._attempts = self._make_attempts(directory)
        self._ending = Ending(
            self._engine, self._leases, self._containers, self._networks,
            self._meter, self._spool, self._clock, self._changed, self._attempts,
        )  # fmt: skip
        self._execs = ExecSessions(self._engine, self._containers, self._leases, self._clock)
        self._overruns = Overruns(self._store)
        self._disk = DiskWatch(self._overruns, self._end_over_disk) if self._disk_limit == WATCHER else None
        self._watch = self._make_watch()
        self._heartbeats = self._make_heartbeats()
        self._raylet = Raylet(directory, config, self.facts) if config.ray_address else None
        self._certificate = CertificateKeeper(directory, self._platform, self._clock.now)
        self._metrics = MetricsServer(
            config, HostCollector(config.name, self._gpus.facts(), self._sampler.readings, self._gauges)
        )
        self._upkeep = Upkeep()

    def _make_containers(self, directory: HostDirectory) -> Containers:
        return Containers(
            self._engine,
            directory.metadata,
            simulated=self._gpus.simulated,
            publish_address=self.config.publish_address or self.config.address,
            quota=self._disk_limit == PROJECT_QUOTA,
        )

    def _make_attempts(self, directory: HostDirectory) -> Attempts:
        directories = AttemptDirectories(directory.tasks, self.config.host_id)
        parts = Parts(
            engine=self._engine,
            leases=self._leases,
            clock=self._clock,
            containers=self._containers,
            volumes=self._volumes,
            images=Images(self._engine),
            holders=self._holders,
            gangs=self._gangs,
            platform=self._platform,
            archives=Archives(directory.archives, self._platform, max_bytes=self.config.archive_cache_bytes),
            runner=directories.install_runner(),
            metadata=directory.metadata,
            simulated=self._gpus.simulated,
            quota=self._disk_limit == PROJECT_QUOTA,
        )
        return Attempts(parts, directories, self._shipping, on_change=self._changed)

    def _make_watch(self) -> Watch:
        grace_s = min(5.0, self.config.lost_margin_s / 2)
        return Watch(
            self._engine,
            self._leases,
            self._meter,
            self._clock,
            self._ending,
            self._disk,
            grace_s=grace_s,
            on_change=self._changed,
            attempts=self._attempts,
        )

    def _make_heartbeats(self) -> Heartbeats:
        return Heartbeats(
            self._platform,
            self._clock,
            self._leases,
            interval_s=self.config.heartbeat_interval_s,
            beat=self._beat,
            facts=self.facts,
            end=self._end_by_verdict,
            learn_peers=self._peers.learn,
            acknowledge=self._attempts.acknowledge,
        )

    def _end_by_verdict(self, verdict: LeaseVerdict) -> None:
        self._watch.end_in_background(
            verdict.allocation_uid, verdict.generation, grace_s=verdict.grace_s, reason=verdict.reason
        )

    def _end_over_disk(self, held: KeptLease, detail: str) -> None:
        log.warning("allocation %s: %s", held.lease.allocation_uid, detail)
        if held.lease.kind == LeaseKind.TASK:
            self._attempts.end_because(held, AttemptEnd.DISK_FULL, detail)
            return
        self._leases.end_because(held.lease, detail)
        self._watch.end_in_background(held.lease.allocation_uid, held.lease.generation)

    def start(self) -> None:
        """Adopt what an earlier daemon left, and begin.

        Raises:
            FirewallError: tenants can't be kept apart here.
            docker.errors.DockerException
        """
        self._firewall.apply()
        self._networks.adopt({held.network for held in self._leases.held() if held.network})
        self._ending.adopt()
        self._execs.adopt()
        self._gangs.adopt({(held.lease.allocation_uid, held.lease.generation) for held in self._leases.held()})
        self._holders.adopt()
        self._networks.fill()
        self._attempts.start()
        self._shipping.start()
        self._watch.start()
        if self._disk is not None:
            self._disk.start()
        self._sampler.sample()
        self._heartbeats.start()
        self._upkeep.start(
            Duty("gpus", self.config.heartbeat_interval_s, self._sampler.sample),
            Duty("networks", _UPKEEP_S, self._keep_networks),
            Duty("firewall", _UPKEEP_S, self._keep_firewall),
            Duty("certificate", _UPKEEP_S, self._certificate.keep),
            Duty("metrics", _UPKEEP_S, self._metrics.keep),
            Duty("execs", _EXECS_S, self._execs.tick),
        )
        if self._raylet is not None:
            self._upkeep.start(Duty("raylet", _RAYLET_S, self._raylet.keep))

    def stop(self) -> None:
        """Let go: containers and raylet go on, for the next daemon to adopt."""
        self._upkeep.stop()
        self._attempts.stop()
        self._shipping.stop()
        self._metrics.close()
        self._watch.stop()
        if self._disk is not None:
            self._disk.stop()
        self._heartbeats.stop()
        self._gpus.close()

    def facts(self) -> HostFacts:
        return host_facts(self.config, self._engine, self._gpus, self._disk_limit)

    def health(self) -> Json:
        problems = (
            self._heartbeats.problem, self._certificate.problem(), self._metrics.problem, self._sampler.problem,
        )  # fmt: skip
        return {
            "host_id": self.config.host_id,
            "boot_id": self.boot_id,
            "daemon_id": self.daemon_id,
            "docker": self._engine.answers(),
            "problems": [problem for problem in problems if problem is not None],
            "metrics": self._metrics.url,
            "raylet": self._raylet.view() if self._raylet else {"pid": None, "state": "off"},
            "leases": len(self._leases.held()),
            "spool_backlog": self._spool.backlog(),
        }

    def grant_lease(self, lease: Lease) -> None:
        """Idempotent. A newer generation ends the older one first.

        Raises:
            StaleGenerationError, LeaseEndedError, ForeignVolumeError, NoNetworkError, docker.errors.APIError
        """
        before = self._leases.find(lease.allocation_uid)
        if before and before.lease.generation < lease.generation and before.state != LeaseState.ENDED:
            self._ending.end(lease.allocation_uid, before.lease.generation, grace_s=0)
        with self._leases.lock(lease.allocation_uid):
            if self._leases.grant(lease).network is None and lease.nodes == 1:  # a gang has one of its own
                self._leases.set_network(lease.allocation_uid, self._networks.take())
            if lease.home_volume:
                self._volumes.ensure(lease.home_volume, lease.disk_bytes)
            if lease.kind == LeaseKind.TASK:
                self._attempts.begin(self._leases.get(lease.allocation_uid, lease.generation))

    def end_lease(self, allocation_uid: str, generation: int, grace_s: float, reason: str = "") -> LeaseEnd:
        """Raises: StaleGenerationError, LeaseEndedError, StillEndingError, docker.errors.APIError."""
        return self._ending.end(allocation_uid, generation, grace_s, reason=reason, wait_s=_END_WAIT_S)

    def container(self, allocation_uid: str, generation: int, operation: str, arguments: Json) -> Any:
        """Raises: StaleGenerationError, LeaseEndedError, BadArgumentsError, docker.errors.APIError."""
        held = self._leases.get(allocation_uid, generation)
        if operation == "remove_container":
            return self._ending.remove_container(held)
        if operation not in ("create_container", "start"):
            return self._containers.call(operation, held, arguments)
        with self._leases.lock(allocation_uid):
            held = self._leases.get(allocation_uid, generation)
            if held.state != LeaseState.ACTIVE or held.run_until_ms <= self._clock.now_ms():
                raise LeaseEndedError
            return self._containers.call(operation, held, arguments)

    def spool_read(self, limit: int) -> UsageBatch:
        return self._spool.read(limit)

    def spool_ack(self, boot_id: str, through: int) -> None:
        self._spool.acknowledge(boot_id, through)

    def delete_volume(self, volume: str) -> None:
        self._volumes.delete(volume)
        self._overruns.forget(volume)

    def exec_start(
        self, allocation_uid: str, generation: int, command: list[str], terminal: dict[str, int] | None
    ) -> Json:
        """Raises: StaleGenerationError, LeaseEndedError, NotRunningError, TooManySessionsError."""
        window = None if terminal is None else Terminal(**terminal)
        return {"session": self._execs.start(allocation_uid, generation, command, window)}

    def exec_write(self, session: str, data: str, end: bool) -> Json:
        """Raises: NoSessionError, BadArgumentsError."""
        try:
            given = base64.b64decode(data, validate=True)
        except ValueError as error:
            raise BadArgumentsError(f"data is no base64: {error}") from error
        return {"taken": self._execs.write(session, given, end=end)}

    def exec_read(self, session: str, wait_ms: int) -> ExecOutput:
        """Raises: NoSessionError."""
        return self._execs.read(session, wait_ms / 1000)

    def exec_resize(self, session: str, rows: int, columns: int) -> None:
        """Raises: NoSessionError."""
        self._execs.resize(session, Terminal(rows, columns))

    def exec_end(self, session: str) -> None:
        self._execs.end(session)

    def _beat(self) -> Heartbeat:
        problems = [] if self._engine.answers() else ["Docker does not answer"]
        problems += [problem for problem in (self._metrics.problem, self._sampler.problem) if problem]
        return Heartbeat(
            boot_id=self.boot_id,
            daemon_id=self.daemon_id,
            leases=tuple(HeldLease(held.lease.allocation_uid, held.lease.generation) for held in self._leases.held()),
            containers=self._watch.reports(),  # before the endings: what is noted there was noted before the exit
            readings=self._sampler.readings(),
            spool_backlog=self._spool.backlog(),
            problems=tuple(problems),
            endings=self._leases.endings(),
            peers_version=self._peers.version,
            attempts=self._attempts.reports(),
        )

    def _changed(self) -> None:
        self._heartbeats.soon()

    def _keep_networks(self) -> None:
        self._networks.fill()
        self._holders.prepare(self._networks.free())

    def _keep_firewall(self) -> None:
        if not self._firewall.present():
            log.error("the firewall table was removed; it is put back")
            self._firewall.apply()

    def _gauges(self) -> HostGauges:
        return HostGauges(
            leases=len(self._leases.held()),
            spool_backlog=self._spool.backlog(),
            docker_answers=self._engine.answers(),
            raylet_runs=self._raylet.runs() if self._raylet else None,
            certificate_ends_s=self._certificate.validity().ends.timestamp(),
        )
