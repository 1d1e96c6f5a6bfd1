"""What the scheduling loop knows: hosts, requests, what is held, customers, capacity groups, reservations.

Values as the store read them. An allocation is either queued (`Request`) or holds something (`Held`), or is gone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.demand import Demand, Version
from scheduler.prices import Rates
from scheduler.quota import Level, Limits, Resources, Scope
from scheduler.states import AllocationState


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A healthy GPU of a model that has a price. `peers` are ids of devices that it reaches over NVLink."""

    gpu_id: int
    uuid: str
    model: str
    memory_bytes: int
    peers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class HostView:
    """A host and all that it has, in use or not. Only one that takes new work is `schedulable`; what runs on one that
    is not `reachable` cannot be told to end.
    """

    host_id: int
    host_uid: str
    name: str
    cpu_milli: int
    memory_bytes: int
    devices: tuple[DeviceView, ...]  # in the order of their PCI bus
    why_not: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    driver: Version = ()
    cuda: Version = ()
    images: frozenset[str] = frozenset()
    reachable: bool = True

    @property
    def schedulable(self) -> bool:
        return self.why_not is None


@dataclass(frozen=True, slots=True)
class Part:
    """What an allocation has on one host: devices with thousandths of each, CPU and memory as its demand says."""

    host_id: int
    devices: tuple[tuple[int, int], ...]  # (gpu id, thousandths)


@dataclass(frozen=True, slots=True)
class Request:
    """An allocation that waits. `hold_s` is how much running time is paid for when it starts; a `task` is one that runs
    to its end.
    """

    allocation_id: int
    allocation_uid: str
    customer_id: int
    workspace_id: int
    demand: Demand
    queued_at: datetime
    priority: int = 0
    group: str | None = None  # the capacity group that it is charged to
    preemptible: bool = False
    min_runtime_s: int = 0
    limit_s: int | None = None  # enforced: it is ended when it has run for so long
    hold_s: int = 0
    not_before: datetime | None = None
    reservation_id: int | None = None  # it starts in this advance reservation, and nowhere else
    user_id: int = 0
    task: bool = False

    @property
    def resources(self) -> Resources:
        """What counts against quotas."""
        return self.demand.counted(task=self.task)

    @property
    def path(self) -> tuple[Scope, Scope, Scope]:
        """Whose limits apply to it."""
        customer, workspace = Scope(Level.CUSTOMER, self.customer_id), Scope(Level.WORKSPACE, self.workspace_id)
        return customer, workspace, Scope(Level.USER, self.user_id)


@dataclass(frozen=True, slots=True)
class Held:
    """An allocation in `placing`, `active` or `releasing`: nobody else has its parts."""

    request: Request
    state: AllocationState
    generation: int
    parts: tuple[Part, ...]
    since: datetime  # placed
    checkpoint_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class IdleGroup:
    """A placement group that outlived its allocation: the next one of the same shape starts in it without a wait."""

    name: str
    host_id: int
    gpu_ids: frozenset[int]
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class CustomerView:
    """`weight` is its share beside others in fair sharing. `available_micro` None: nothing limits what it may owe.

    `workspaces` and `users` are those, by id, that have limits of their own beside the customer's.
    """

    customer_id: int
    weight: float = 1.0
    limits: Limits = field(default_factory=Limits)
    available_micro: int | None = None
    prices: Mapping[str, Rates] = field(default_factory=dict)  # by exact model, in its currency
    disabled: bool = False
    group_prices: Mapping[str, Mapping[str, Rates]] = field(default_factory=dict)
    """By capacity group and exact model, where they differ."""
    workspaces: Mapping[int, Limits] = field(default_factory=dict)
    users: Mapping[int, Limits] = field(default_factory=dict)

    def price_micro(self, request: Request, model: str) -> int | None:
        """Per GPU hour, on the request's terms; None: the model has no price."""
        rates = self.prices.get(model)
        if request.group is not None and self.group_prices:
            rates = self.group_prices.get(request.group, {}).get(model, rates)
        if rates is None:
            return None
        return rates.at(rates.best(preemptible=request.preemptible, reserved=request.reservation_id is not None))

    def limits_on(self, request: Request) -> list[tuple[Scope, Limits]]:
        """Those on its path that limit what may be held, the customer's first."""
        found = [(Scope(Level.CUSTOMER, self.customer_id), self.limits)] if self.limits.any else []
        if self.workspaces and (of_workspace := self.workspaces.get(request.workspace_id)) is not None:
            found.append((Scope(Level.WORKSPACE, request.workspace_id), of_workspace))
        if self.users and (of_user := self.users.get(request.user_id)) is not None:
            found.append((Scope(Level.USER, request.user_id), of_user))
        return found

    @property
    def limited(self) -> frozenset[Scope]:
        """All of it whose holdings have to be counted."""
        return frozenset(self._scopes())

    def _scopes(self) -> Iterator[Scope]:
        if self.limits.any:
            yield Scope(Level.CUSTOMER, self.customer_id)
        yield from (Scope(Level.WORKSPACE, number) for number in self.workspaces)
        yield from (Scope(Level.USER, number) for number in self.users)


@dataclass(frozen=True, slots=True)
class Usage:
    """Decayed use by one workspace, as of `at`: thousandths of GPUs, milli-cores and bytes, each times seconds."""

    customer_id: int
    workspace_id: int
    at: datetime
    gpu_milli_s: float = 0.0
    cpu_milli_s: float = 0.0
    memory_byte_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CapacityGroup:
    """A customer's guaranteed share of a pool, in thousandths of GPUs of its models, inside a cohort.

    `nominal` is its own; what it does not use, others of the cohort may borrow, at most `lending_limit` of it. It may
    use at most `borrowing_limit` beyond its own. None is no limit. (The model is Kueue's ClusterQueue.)
    """

    name: str
    cohort: str | None
    nominal: int
    borrowing_limit: int | None = None
    lending_limit: int | None = None
    reclaim_within_cohort: bool = True  # by preemption of what others have borrowed
    preempt_lower_priority: bool = True  # inside the group


@dataclass(frozen=True, slots=True)
class Reservation:
    """An advance lease of devices from `starts_at` to `ends_at`: nothing else may overlap it."""

    reservation_id: int
    customer_id: int
    starts_at: datetime
    ends_at: datetime
    parts: tuple[Part, ...]
    cpu_milli: int  # on each host
    memory_bytes: int
