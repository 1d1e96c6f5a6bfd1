"""From a task's lease to its running container: order, uploads, image, volumes; started once for each generation."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import docker

from node.daemon.archives import Archives
from node.daemon.attempt_directory import AttemptDirectory
from node.daemon.clock import ServerClock
from node.daemon.container_spec import TaskPart, task_config, write_metadata
from node.daemon.containers import Containers
from node.daemon.engine import Engine, Json, docker_time_ms
from node.daemon.gang_networks import GangEndpoint, GangNetworks
from node.daemon.holders import Holders
from node.daemon.images import ImageMissingError, Images
from node.daemon.leases import HeldLease, Leases, LeaseState
from node.daemon.networks import NoNetworkError
from node.daemon.volumes import ForeignVolumeError, Volumes
from node.platform import AttemptOverError, Platform, PlatformUnavailableError
from scheduler.host_protocol import Archive, AttemptOrder, AttemptPhase, Lease
from scheduler.states import AttemptEnd

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.005, 2.0
_JOIN = "container:"

T = TypeVar("T")


class StartError(Exception):
    """The attempt can't be started on this host: how it ends, and why."""

    def __init__(self, end: AttemptEnd, detail: str) -> None:
        super().__init__(detail)
        self.end, self.detail = end, detail


class LeaseGoneError(Exception):
    """The lease ended, or ran out, before the container was started."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a start needs of the host."""

    engine: Engine
    leases: Leases
    clock: ServerClock
    containers: Containers
    volumes: Volumes
    images: Images
    holders: Holders
    gangs: GangNetworks
    platform: Platform
    archives: Archives
    runner: Path
    metadata: Path
    simulated: bool
    quota: bool


class AttemptStart:
    """Of one attempt, in a thread of its own. `tell` is called with each phase, and how far it is."""

    def __init__(
        self, parts: Parts, lease: Lease, directory: AttemptDirectory, tell: Callable[[AttemptPhase, str], None]
    ) -> None:
        self._parts, self._lease, self._directory, self._tell = parts, lease, directory, tell
        self.started = False

    def run(self) -> AttemptOrder:
        """Start the container, unless it was started before. What it runs, but for secrets.

        Raises:
            StartError, LeaseGoneError
            docker.errors.DockerException, requests.RequestException: Docker is away; call it again.
        """
        known = self._directory.known_order()  # written before anything is asked of Docker
        found = self._found() if known is not None else None
        if found is None and self._directory.begun:
            raise StartError(AttemptEnd.HOST_LOST, "its container is gone from the host")
        if known is not None and found is not None and _was_started(found):
            self.started = True
            return known
        if found is not None:  # made and never started: an order is asked for anew, which may be over
            self._parts.containers.remove(found["Id"])
        order = self._fetch_order()
        self._prepare(order)
        self._make_and_start(order)
        return order

    def _found(self) -> Json | None:
        try:
            return self._parts.containers.inspect(self._lease)
        except docker.errors.NotFound:
            return None

    def _fetch_order(self) -> AttemptOrder:
        lease = self._lease
        try:
            return self._until_told(lambda: self._parts.platform.order(lease.allocation_uid, lease.generation))
        except AttemptOverError as error:
            raise StartError(AttemptEnd.START_FAILED, f"the platform has no order for it: {error}") from error

    def _prepare(self, order: AttemptOrder) -> None:
        """Everything but the container."""
        lease, archives = self._lease, {}
        try:
            for each in order.archives:
                self._tell(AttemptPhase.FETCHING, f"{each.size_bytes / 2**20:.0f} MiB of uploads")
                archives[each.digest] = self._fetch_archive(each)
            self._directory.write(order, lease, archives=archives)
            for mount in order.mounts:
                self._parts.volumes.ensure(mount.volume, mount.size_bytes, for_any_user=True)
        except (AttemptOverError, ForeignVolumeError, OSError) as error:
            raise StartError(AttemptEnd.START_FAILED, str(error)) from error

    def _fetch_archive(self, archive: Archive) -> Path:
        lease = self._lease
        return self._until_told(
            lambda: self._parts.archives.fetch(lease.customer_uid, archive, lease.allocation_uid, lease.generation)
        )

    def _until_told(self, ask: Callable[[], T]) -> T:
        """Ask the platform, again and again while the lease lasts. Raises: LeaseGoneError, and what `ask` does."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return ask()
            except PlatformUnavailableError as error:
                self._tell(AttemptPhase.FETCHING, str(error)[:200] if wait_s > 1 else "")
            threading.Event().wait(wait_s)
            self._check_lease()
            wait_s = min(1.5 * wait_s, _LONGEST_WAIT_S)

    def _check_lease(self) -> HeldLease:
        """Raises: LeaseGoneError."""
        held = self._parts.leases.find(self._lease.allocation_uid)
        if (
            held is None
            or held.lease.generation != self._lease.generation
            or held.state != LeaseState.ACTIVE
            or held.run_until_ms <= self._parts.clock.now_ms()
        ):
            raise LeaseGoneError
        return held

    def _make_and_start(self, order: AttemptOrder) -> None:
        try:
            self._once(order)
        except docker.errors.ImageNotFound:
            # Outside of the lease's lock: an end must not wait for a pull.
            self._pull()
            self._once(order)

    def _pull(self) -> None:
        self._tell(AttemptPhase.PULLING, "")
        try:
            self._parts.images.pull(self._lease.image, lambda detail: self._tell(AttemptPhase.PULLING, detail))
        except ImageMissingError as error:
            raise StartError(AttemptEnd.IMAGE_MISSING, str(error)) from error

    def _once(self, order: AttemptOrder) -> None:
        """Make the container and start it, with nothing that ends the lease in between.

        Raises:
            docker.errors.ImageNotFound, LeaseGoneError, StartError
        """
        with self._parts.leases.lock(self._lease.allocation_uid):
            held = self._check_lease()
            if self._directory.begun:  # by a start that a daemon before this one asked for
                raise StartError(AttemptEnd.HOST_LOST, "its container is gone from the host")
            try:
                self._create_and_start(order, held)
            except docker.errors.ImageNotFound:
                raise
            except (docker.errors.APIError, NoNetworkError) as error:
                self._remove_unstarted()
                raise StartError(AttemptEnd.START_FAILED, str(getattr(error, "explanation", None) or error)) from error

    def _remove_unstarted(self) -> None:
        """What was made of it, and nothing else of that name."""
        found = self._found()
        if found is not None:
            self._parts.containers.remove(found["Id"])
        self.started = False

    def _create_and_start(self, order: AttemptOrder, held: HeldLease) -> None:
        if order.gang is not None:
            placing = (self._lease.allocation_uid, self._lease.generation)
            endpoint = self._parts.gangs.join(order.gang, self._lease.rank, placing)
            made = self._create(order, endpoint.network, endpoint)
            self.started = True
            self._parts.engine.api.start(made)
            return
        network = held.network or "none"
        holder = self._parts.holders.of(network, self._lease.image) if held.network and order.nodes == 1 else None
        made = self._create(order, f"{_JOIN}{holder}" if holder else network)
        self.started = True  # from here on it may run, whatever Docker answers
        try:
            self._parts.engine.api.start(made)
        except docker.errors.APIError as error:
            if holder is None or "network" not in str(error.explanation):
                raise
            # The holder was ended by somebody: what was made never started, and is made anew on the network itself.
            self._parts.holders.forget(network)
            self._parts.containers.remove(made)
            self._parts.engine.api.start(self._create(order, network))

    def _create(self, order: AttemptOrder, network_mode: str, endpoint: GangEndpoint | None = None) -> str:
        parts, lease = self._parts, self._lease
        task = TaskPart(
            parts.runner,
            self._directory.inside,
            self._directory.secrets if order.secrets else None,
            self._directory.outside,
            order.mounts,
            endpoint,
        )
        config = task_config(
            parts.engine,
            lease,
            task,
            network=network_mode,
            metadata=write_metadata(parts.metadata, lease, simulated=parts.simulated),
            simulated=parts.simulated,
            quota=parts.quota,
        )
        return str(parts.engine.api.create_container(**config)["Id"])


def _was_started(inspected: Json) -> bool:
    return docker_time_ms(inspected["State"]["StartedAt"]) is not None
