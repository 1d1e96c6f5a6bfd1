"""The two ports of the scheduling loop: what it knows and records (Store), and what it does to the world (Fabric).

In production they are PostgreSQL and Ray; in the simulator and the property tests, memory. What the loop knows of
hosts and allocations is in `scheduler.views`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from scheduler.host_protocol import DeviceShare, Lease, LeaseEnd
from scheduler.views import CapacityGroup, CustomerView, Held, HostView, IdleGroup, Part, Request, Reservation, Usage


class FabricError(Exception):
    """Something outside could not be done now; trying again later may help."""


class HostUnreachableError(FabricError):
    """The host, its agent or its daemon does not answer. What it runs is unknown, not gone."""


class StaleGenerationError(FabricError):
    """A newer generation of the allocation exists: whoever asked is out of date and must change nothing."""


class StillEndingError(FabricError):
    """What runs under the lease has its grace: ask again soon."""


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
class Changes:
    """What is different since the last look. `complete`: forget everything, this is all there is.

    Allocations are in `queued` or `held` with their present values, or in `gone` once they wait for nothing and hold
    nothing. The sequences that may be None are whole: None is no change.
    """

    complete: bool = False
    hosts: Sequence[HostView] = ()
    hosts_gone: Sequence[int] = ()
    queued: Sequence[Request] = ()
    held: Sequence[Held] = ()
    gone: Sequence[int] = ()
    customers: Sequence[CustomerView] = ()
    usage: Sequence[Usage] = ()  # only with `complete`: from then on the engine counts itself
    groups: Sequence[CapacityGroup] | None = None
    reservations: Sequence[Reservation] | None = None
    idle_groups: Sequence[IdleGroup] | None = None


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why a request waits: a stable code, a sentence for people, its place in the queue, figures, when it may start.

    `eta_basis` says what `eta` rests on: "reservation" or "limits" (enforced, so it holds), "estimate" or "history"
    (may be wrong); without an `eta` it is "unknown".
    """

    code: str
    detail: str
    position: int
    figures: Mapping[str, int] | None = None
    eta: datetime | None = None
    eta_basis: str = "unknown"


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision: this request starts now on these hosts and devices, in the order of the gang's ranks."""

    allocation_id: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Eviction:
    """A decision: this allocation gives way to another one, after its grace period."""

    allocation_id: int
    generation: int
    in_favour_of: int | None  # allocation id; None: an advance reservation
    reason: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A placement that the store has taken: quota and hold are in place, device rows and the group's name written.

    One of `leases` for each of `shares`, in the same order.
    """

    allocation_id: int
    generation: int
    group_name: str
    shares: tuple[HostShare, ...]
    leases: tuple[Lease, ...]
    drop_groups: tuple[str, ...] = ()  # they hold resources in Ray that this one needs: removed first


@dataclass(frozen=True, slots=True)
class Releasing:
    """`host_uids` are those that must confirm: the ones that are not lost. `reason` is an `EndReason`."""

    allocation_id: int
    allocation_uid: str
    generation: int
    host_uids: tuple[str, ...]
    grace_s: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """The group is reserved and every host has its lease: `placing -> active`."""

    allocation_id: int
    generation: int


@dataclass(frozen=True, slots=True)
class PlacementFailed:
    """`placing -> queued`, giving back devices and hold; the group is to be dropped."""

    allocation_id: int
    generation: int
    reason: str
    retry_at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """Every host has confirmed, or is lost: `releasing -> released`, closes the device rows and settles the hold.

    The group, if it is known to be reserved on living hosts, stays for the next allocation of the same shape, with no
    owner, for a short time; else it is to be dropped.
    """

    allocation_id: int
    generation: int
    ends: tuple[LeaseEnd, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A group of `groups_to_drop` or `Admitted.drop_groups` is gone."""

    group_name: str


Outcome = Placed | PlacementFailed | Ended | Dropped


class LostLeadershipError(Exception):
    """Another controller leads now: this one must stop, and has changed nothing."""


class Store(Protocol):
    """The state of record. Every method is one transaction, and fenced by the leader's epoch in production.

    Writing methods raise LostLeadershipError when another controller has taken over.
    """

    def changes(self, *, complete: bool = False) -> Changes:
        """What is new since the last call, also by this loop itself; everything at the first call or if asked for."""

    def admit(self, placements: Sequence[Placement]) -> Sequence[Admitted | WaitReason]:
        """`queued -> placing`, or the limit that stands against it (quota, balance, a race lost), for each in order."""

    def evict(self, evictions: Sequence[Eviction]) -> Sequence[bool]:
        """`active -> releasing` with the end reason `preempted`; False for what somebody else moved on."""

    def record_waits(self, reasons: Mapping[int, WaitReason]) -> None: ...

    def record(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        """What effects have come to; False where nothing changed, since somebody else moved it on. Idempotent."""

    def placing(self, allocation_ids: Sequence[int]) -> Sequence[Admitted]:
        """Those in `placing`, as `admit` answered them: after a restart, their effects are done again by name."""

    def releasing(self, allocation_ids: Sequence[int]) -> Sequence[Releasing]:
        """Those in `releasing`."""

    def groups_to_drop(self) -> Sequence[str]:
        """Groups that nobody wants any more: idle too long, or left by a failed placement or a lost host."""


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

    def end(
        self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int, reason: str = ""
    ) -> LeaseEnd | None:
        """Stop and remove a lease's containers and wait for it; None if the host never had it.

        `reason` is why it ends, for what runs there.

        Raises:
            HostUnreachableError, StaleGenerationError
            StillEndingError: the grace goes on.
        """
