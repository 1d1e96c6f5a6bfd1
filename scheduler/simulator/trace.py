"""What a simulation runs: hosts, capacity groups, and work that comes, runs for its time and goes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from scheduler.demand import Demand
from scheduler.views import CapacityGroup, HostView, Request

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""Time zero of a trace."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work. Times are milliseconds, `arrives_ms` after the beginning; without a runtime it never ends.

    `kind` is the class of work that reports tell apart.
    """

    name: str
    kind: str
    demand: Demand
    arrives_ms: int
    runtime_ms: int | None
    customer_id: int = 1
    priority: int = 0
    group: str | None = None
    preemptible: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """`work` in the order of its arrival."""

    hosts: tuple[HostView, ...]
    work: tuple[Work, ...]
    groups: tuple[CapacityGroup, ...] = field(default=())

    @property
    def gpus(self) -> int:
        return sum(len(host.devices) for host in self.hosts)


def as_request(work: Work, allocation_id: int, allocation_uid: str, *, begun: datetime = EPOCH) -> Request:
    """A piece of work as it waits. What was preempted comes back with the time of its first arrival."""
    return Request(
        allocation_id=allocation_id,
        allocation_uid=allocation_uid,
        customer_id=work.customer_id,
        workspace_id=work.customer_id,
        demand=work.demand,
        queued_at=begun + timedelta(milliseconds=work.arrives_ms),
        priority=work.priority,
        group=work.group,
        preemptible=work.preemptible,
    )


def moment(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)
