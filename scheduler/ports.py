"""The two ports of the scheduling loop: what it knows and records (Store), and what it does to the world (Fabric).

In production they are PostgreSQL and Ray; in the simulator and the property tests, memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from scheduler.host_protocol import DeviceShare, Lease, LeaseEnd


class FabricError(Exception):
    """Something outside could not be done now; trying again later may help."""


class HostUnreachableError(FabricError):
    """The host, its agent or its daemon does not answer. What it runs is unknown, not gone."""


class StaleGenerationError(FabricError):
    """A newer generation of the allocation exists: whoever asked is out of date and must change nothing."""


class CapacityError(FabricError):
    """Ray can't reserve the bundles: the host left, or its resources are not free yet."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """One bundle: exactly these devices of one host, with CPU and memory beside them."""

    host_uid: str
    devices: tuple[DeviceShare, ...]
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class FreeDevice:
    gpu_id: int
    uuid: str
    model: str
    memory_bytes: int
    free_milli: int


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as the loop sees it: only hosts that take new work have `schedulable`."""

    host_id: int
    host_uid: str
    name: str
    schedulable: bool
    why_not: str | None
    cpu_milli: int
    memory_bytes: int
    free_cpu_milli: int
    free_memory_bytes: int
    devices: tuple[FreeDevice, ...]  # healthy ones, in use or not, in the order of their index


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    allocation_id: int
    allocation_uid: str
    customer_id: int
    priority: int
    queued_at: datetime
    gpus: int
    gpu_model: str | None
    cpu_milli: int
    memory_bytes: int
    bound_host_id: int | None
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class IdleGroup:
    """A placement group that outlived its allocation: the next one of the same shape starts in it without a wait."""

    name: str
    host_id: int
    gpu_ids: frozenset[int]
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    hosts: Sequence[HostView]
    queue: Sequence[QueuedRequest]
    idle_groups: Sequence[IdleGroup] = ()


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why a request waits: a stable code, a sentence for people, its place in the queue, and figures."""

    code: str
    detail: str
    position: int
    figures: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision: this request starts now on these devices of this host."""

    allocation_id: int
    host_id: int
    gpu_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A placement that the store has taken: quota and hold are in place, device rows and the group's name written."""

    allocation_id: int
    lease: Lease
    group_name: str
    shares: tuple[HostShare, ...]
    drop_groups: tuple[str, ...] = ()  # they hold resources in Ray that this one needs: removed first


@dataclass(frozen=True, slots=True)
class Releasing:
    allocation_id: int
    allocation_uid: str
    generation: int
    group_name: str | None
    host_uid: str | None
    host_lost: bool
    grace_s: int


class LostLeadershipError(Exception):
    """Another controller leads now: this one must stop, and has changed nothing."""


class Store(Protocol):
    """The state of record. Every method is one transaction, and fenced by the leader's epoch in production.

    Writing methods raise LostLeadershipError when another controller has taken over.
    """

    def snapshot(self) -> Snapshot: ...

    def admit(self, placement: Placement) -> Admitted | WaitReason:
        """`queued -> placing`, or the limit that stands against it (quota, balance, a race lost)."""

    def record_waits(self, reasons: Mapping[int, WaitReason]) -> None: ...

    def activate(self, allocation_id: int, *, generation: int) -> bool:
        """`placing -> active`; False if somebody else moved it on."""

    def unplace(self, allocation_id: int, *, generation: int, reason: str, retry_at: datetime) -> bool:
        """`placing -> queued`, giving back devices and hold; its group is to be dropped.

        False, and nothing changed, if somebody else moved it on.
        """

    def unfinished_placements(self) -> Sequence[Admitted]:
        """Allocations in `placing`: after a restart, their effects are done again by name."""

    def releasing(self) -> Sequence[Releasing]: ...

    def released(self, allocation_id: int, *, generation: int, ended: LeaseEnd | None) -> None:
        """`releasing -> released`: closes the device rows and settles the hold.

        Its group, if it is known to be reserved on a living host, stays for the next allocation of the same shape,
        with no owner, for a short time; else it is to be dropped.
        """

    def groups_to_drop(self) -> Sequence[str]:
        """Groups that nobody wants any more: idle too long, or left by a failed placement or a lost host."""

    def group_dropped(self, name: str) -> None:
        """Record that a group of `groups_to_drop` or `Admitted.drop_groups` is gone."""


class Fabric(Protocol):
    """Ray and the hosts behind it. Every method may be repeated: names and generations make it idempotent."""

    def reserve(self, name: str, shares: Sequence[HostShare]) -> None:
        """Reserve a placement group, all bundles or none.

        Raises:
            CapacityError: it did not become ready in the time allowed; nothing stays behind.
        """

    def remove(self, name: str) -> None: ...

    def grant(self, host_uid: str, lease: Lease) -> None:
        """Hand the lease to the host's daemon.

        Raises:
            HostUnreachableError, StaleGenerationError
        """

    def end(self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int) -> LeaseEnd | None:
        """Stop and remove a lease's containers and wait for it; None if the host never had it.

        Raises:
            HostUnreachableError, StaleGenerationError
        """
