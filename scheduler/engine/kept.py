"""What is kept: for blocked requests until their time comes, and for advance reservations.

Whoever comes after in the order avoids what is kept, unless an enforced limit ends it before that time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.engine.capacity import Capacity
from scheduler.quota import NOTHING, Resources, Scope
from scheduler.views import Part, Request, Reservation

Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """`since` is when the place is needed; `certain`: see `lookahead.Start`. It is being cleared if it `awaits` the end
    of something; `victims` are those that were evicted for it.
    """

    request: Request
    parts: tuple[Part, ...]
    since: datetime
    certain: bool
    victims: frozenset[int] = frozenset()
    awaits: frozenset[int] = frozenset()

    def touches(self, parts: Sequence[Part]) -> bool:
        """Whether it has a host in common with them."""
        hosts = {part.host_id for part in parts}
        return any(part.host_id in hosts for part in self.parts)


@dataclass(frozen=True, slots=True)
class Quota:
    """What a request is going to use of its capacity group, and of the limits of those in `scopes`; or with `words` of
    their limit for GPUs of such a model alone.

    `since`: from when on; None: who knows when. `grouped`: the group can be used at once, or soon.
    """

    request: Request
    since: datetime | None
    scopes: tuple[Scope, ...]
    words: str | None = None
    grouped: bool = True


@dataclass(slots=True)
class KeptLimits:
    """What of limits is kept."""

    _resources: dict[Scope, Resources] = field(default_factory=dict)
    _gpus: dict[Scope, dict[str, int]] = field(default_factory=dict)

    def resources(self, scope: Scope) -> Resources:
        return self._resources.get(scope, NOTHING)

    def gpus(self, scope: Scope) -> Mapping[str, int]:
        """By the words of a limit."""
        return self._gpus.get(scope, {})

    def change(self, quota: Quota, sign: int) -> None:
        asked = quota.request.resources.times(sign)
        for scope in quota.scopes:
            if quota.words is None:
                self._resources[scope] = self.resources(scope) + asked
            else:
                gpus = self._gpus.setdefault(scope, {})
                gpus[quota.words] = gpus.get(quota.words, 0) + asked.gpus


@dataclass(frozen=True, slots=True)
class _Place:
    customer_id: int
    demand: Demand
    parts: tuple[Part, ...]
    since: datetime
    cleared: bool = False  # others have been told to leave it


@dataclass(slots=True)
class Asides:
    """What is kept aside in one cycle, as it goes through the order."""

    cluster: Cluster
    capacity: Capacity
    waiting: int = 0  # requests that have a place kept which nobody is leaving for them
    _places: dict[Key, _Place] = field(default_factory=dict)
    _quotas: dict[int, Quota] = field(default_factory=dict)
    limits: KeptLimits = field(default_factory=KeptLimits)

    def __bool__(self) -> bool:
        return bool(self._places)

    def clear(self) -> None:
        """Nothing is kept any more."""
        self.clear_requests()
        for key in self._places:
            self.cluster.clear_aside(key)
        self._places.clear()

    def clear_requests(self) -> None:
        """Nothing is kept for requests any more."""
        for key in [key for key in self._places if key[0] == "request"]:
            self.cluster.clear_aside(key)
            del self._places[key]
        for quota in self._quotas.values():
            self._change(quota, -1)
        self._quotas.clear()
        self.waiting = 0

    def keep(self, kept: Kept) -> None:
        request = kept.request
        if _key(request) not in self._places and not kept.awaits:
            self.waiting += 1
        place = _Place(request.customer_id, request.demand, kept.parts, kept.since, bool(kept.awaits))
        self._set(_key(request), place)

    def drop(self, request: Request) -> None:
        """Nothing is kept for it any more."""
        if self._places.pop(_key(request), None) is not None:
            self.cluster.clear_aside(_key(request))
        quota = self._quotas.pop(request.allocation_id, None)
        if quota is not None:
            self._change(quota, -1)

    def keep_quota(self, quota: Quota) -> None:
        """What is kept for it already stays as it is."""
        if quota.request.allocation_id not in self._quotas:
            self._quotas[quota.request.allocation_id] = quota
            self._change(quota, 1)

    def reserve(self, reservation_id: int, customer_id: int, demand: Demand, part: Part, since: datetime) -> None:
        """`demand` has the CPU and memory that are kept beside the devices."""
        self._set(("reservation", reservation_id, part.host_id), _Place(customer_id, demand, (part,), since))

    def has(self, request: Request) -> bool:
        """Whether anything is kept for it."""
        return _key(request) in self._places or request.allocation_id in self._quotas

    @contextmanager
    def without(self, request: Request) -> Iterator[None]:
        """What is kept for the request itself does not stand against it."""
        key = _key(request)
        place, quota = self._places.pop(key, None), self._quotas.pop(request.allocation_id, None)
        try:
            with self.cluster.trial(), self._lent([] if quota is None else [quota]):
                self.cluster.clear_aside(key)
                yield
        finally:
            if place is not None:
                self._places[key] = place
            if quota is not None:
                self._quotas[request.allocation_id] = quota

    @contextmanager
    def inside(self, reservation: Reservation) -> Iterator[None]:
        """Only what is kept for other reservations of the same time stands against the requests of one."""
        with self.cluster.trial():
            for key, place in self._places.items():
                if key[0] == "request" or key[1] == reservation.reservation_id or place.since >= reservation.ends_at:
                    self.cluster.clear_aside(key)
            yield

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """Only what others have cleared, and reservations, stand against one for whom others have left."""
        with self.cluster.trial():
            for key, place in self._places.items():
                if key[0] == "request" and not place.cleared:
                    self.cluster.clear_aside(key)
            yield

    def free_for(self, ends_at: datetime) -> list[Key]:
        """The places that are not needed before that time."""
        return [key for key, place in self._places.items() if place.since >= ends_at]

    def since(self, key: Key) -> datetime:
        return self._places[key].since

    def lends(self, ends_at: datetime) -> bool:
        """Whether there is anything that is not needed before that time."""
        return bool(self._free_quotas(ends_at) or self.free_for(ends_at))

    @contextmanager
    def lent(self, ends_at: datetime) -> Iterator[None]:
        """What is not needed before that time does not stand against who has ended by then."""
        keys = self.free_for(ends_at)
        with self.cluster.trial(), self._lent(self._free_quotas(ends_at)):
            for key in keys:
                self.cluster.clear_aside(key)
            yield

    def _free_quotas(self, ends_at: datetime) -> list[Quota]:
        return [quota for quota in self._quotas.values() if quota.since is not None and quota.since >= ends_at]

    @contextmanager
    def _lent(self, quotas: Sequence[Quota]) -> Iterator[None]:
        for quota in quotas:
            self._change(quota, -1)
        try:
            yield
        finally:
            for quota in quotas:
                self._change(quota, 1)

    def _change(self, quota: Quota, sign: int) -> None:
        request = quota.request
        if quota.grouped:
            self.capacity.keep(request.group, sign * request.demand.gpu_milli, preemptible=request.preemptible)
        self.limits.change(quota, sign)

    def _set(self, key: Key, place: _Place) -> None:
        self._places[key] = place
        self.cluster.set_aside(key, place.customer_id, place.demand, place.parts)


def _key(request: Request) -> Key:
    return "request", request.allocation_id, 0
