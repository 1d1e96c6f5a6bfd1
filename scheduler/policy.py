"""What starts now: the policy behind the loop, and the first one, first come first served.

A policy is a pure function of the snapshot and the time. A cleverer one takes the place of `FirstComeFirstServed`
behind the same protocol.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from scheduler import waiting
from scheduler.gpu_model import matches
from scheduler.money import MILLI_PER_GPU
from scheduler.ports import FreeDevice, HostView, IdleGroup, Placement, QueuedRequest, Snapshot, WaitReason

PoolKey = tuple[int, str]  # (host id, exact GPU model)


@dataclass(frozen=True, slots=True)
class Decision:
    """What starts, best first, and why each of the others waits, by allocation id."""

    placements: Sequence[Placement]
    waits: Mapping[int, WaitReason]


class Policy(Protocol):
    def decide(self, snapshot: Snapshot, now: datetime) -> Decision:
        """Place or give a reason for every request of the queue. Pure, and the same for the same arguments."""


@dataclass(slots=True)
class _Room:
    """A host's CPU and memory: what nobody has, and of that what nobody earlier waits for."""

    host: HostView
    free_cpu_milli: int
    free_memory_bytes: int
    open_cpu_milli: int
    open_memory_bytes: int

    def fits(self, request: QueuedRequest) -> bool:
        return self.open_cpu_milli >= request.cpu_milli and self.open_memory_bytes >= request.memory_bytes

    def would_fit_alone(self, request: QueuedRequest) -> bool:
        return self.free_cpu_milli >= request.cpu_milli and self.free_memory_bytes >= request.memory_bytes

    def take(self, request: QueuedRequest) -> None:
        self.free_cpu_milli -= request.cpu_milli
        self.free_memory_bytes -= request.memory_bytes
        self.keep(request)

    def keep(self, request: QueuedRequest) -> None:
        self.open_cpu_milli = max(0, self.open_cpu_milli - request.cpu_milli)
        self.open_memory_bytes = max(0, self.open_memory_bytes - request.memory_bytes)


@dataclass(slots=True)
class _Pool:
    """The devices of one model on one host. An allocation takes its devices from one pool, since it has one price."""

    key: PoolKey
    room: _Room
    total: int
    actually_free: int  # whether or not somebody earlier waits for them
    free: list[FreeDevice]  # that may be given out in this decision, in the order of their index
    reserved: bool = False

    def could_ever_hold(self, request: QueuedRequest) -> bool:
        host = self.room.host
        return (
            self.total >= request.gpus
            and host.cpu_milli >= request.cpu_milli
            and host.memory_bytes >= request.memory_bytes
        )

    def holds_now(self, request: QueuedRequest) -> bool:
        return len(self.free) >= request.gpus and self.room.fits(request)

    def would_hold_alone(self, request: QueuedRequest) -> bool:
        return self.actually_free >= request.gpus and self.room.would_fit_alone(request)

    def reserve(self, request: QueuedRequest) -> None:
        """Keep everything that is free here for a request that waits; CPU and memory for the first one only."""
        if not self.reserved:
            self.reserved = True
            self.free.clear()
            self.room.keep(request)


_Sides = tuple[list[_Pool], list[_Pool], frozenset[PoolKey]]


@dataclass(slots=True)
class _Market:
    """All pools, and which of them concern a request: looked up once for each shape, since queues repeat themselves."""

    pools: list[_Pool]
    _known: dict[tuple[int | None, str | None, int, int, int], _Sides] = field(default_factory=dict)

    def sides(self, request: QueuedRequest) -> _Sides:
        """The pools of matching devices, of those the ones that could take it if they were empty, and all the keys."""
        shape = (request.bound_host_id, request.gpu_model, request.gpus, request.cpu_milli, request.memory_bytes)
        if shape not in self._known:
            matching = [pool for pool in self.pools if _may_use(request, pool)]
            usable = [pool for pool in matching if pool.room.host.schedulable and pool.could_ever_hold(request)]
            self._known[shape] = matching, usable, frozenset(pool.key for pool in matching)
        return self._known[shape]


@dataclass(slots=True)
class _Queue:
    """Who waits for which pools, so that those behind can be told how many are ahead of them."""

    waiting: Counter[frozenset[PoolKey]] = field(default_factory=Counter)

    def ahead_of(self, pools: frozenset[PoolKey]) -> int:
        return sum(count for wanted, count in self.waiting.items() if wanted & pools)

    def add(self, pools: frozenset[PoolKey]) -> None:
        self.waiting[pools] += 1


@dataclass(frozen=True, slots=True)
class FirstComeFirstServed:
    """In the order of priority (high first) and arrival, with a queue of its own for each pool of devices.

    A request starts as soon as a host has its devices, CPU and memory free. One that can't start reserves, in this
    decision, everything that is free in each pool that it could ever use, so that nobody later takes a device that it
    waits for: a large request is not starved by small ones. A request for other devices is not held up, so a wait for
    an H100 leaves no A100 idle. One that backs off after a failed placement, or whose hosts are all away, reserves
    nothing. Requests that a limit of their customer holds back are not in the snapshot by then (see the loop).

    Of the hosts that can take a request, the one is chosen where an idle placement group has exactly its shape; else
    the one with the fewest devices left over (best fit), and on it devices that no idle group holds in Ray.
    """

    def decide(self, snapshot: Snapshot, now: datetime) -> Decision:
        market = _Market([pool for host in snapshot.hosts for pool in _pools(host)])
        placements: list[Placement] = []
        waits: dict[int, WaitReason] = {}
        queue = _Queue()
        for request in sorted(snapshot.queue, key=_order):
            matching, usable, keys = market.sides(request)
            backing_off = request.not_before is not None and request.not_before > now
            fitting = [] if backing_off else [pool for pool in usable if pool.holds_now(request)]
            if fitting:
                placements.append(_place(request, fitting, snapshot.idle_groups))
                continue
            waits[request.allocation_id] = _reason(request, snapshot, matching, usable, queue.ahead_of(keys), now)
            queue.add(keys)
            if not backing_off:
                for pool in usable:
                    pool.reserve(request)
        return Decision(placements, waits)


def _order(request: QueuedRequest) -> tuple[int, datetime, int]:
    return -request.priority, request.queued_at, request.allocation_id


def _may_use(request: QueuedRequest, pool: _Pool) -> bool:
    host_id, model = pool.key
    return request.bound_host_id in (None, host_id) and (request.gpu_model is None or matches(request.gpu_model, model))


def _pools(host: HostView) -> list[_Pool]:
    cpu_milli, memory_bytes = host.free_cpu_milli, host.free_memory_bytes
    room = _Room(host, cpu_milli, memory_bytes, cpu_milli, memory_bytes)
    by_model: dict[str, list[FreeDevice]] = {}
    for device in host.devices:
        by_model.setdefault(device.model, []).append(device)
    pools = []
    for model, devices in sorted(by_model.items()):
        free = [device for device in devices if device.free_milli == MILLI_PER_GPU]
        pools.append(_Pool((host.host_id, model), room, len(devices), len(free), free))
    return pools


def _place(request: QueuedRequest, fitting: Sequence[_Pool], idle: Sequence[IdleGroup]) -> Placement:
    """Choose a pool and devices for a request that fits into each of `fitting`, and take them."""
    pool, chosen = _in_idle_group(request, fitting, idle) or _best_fit(request, fitting, idle)
    pool.free = [device for device in pool.free if device.gpu_id not in chosen]
    pool.actually_free -= len(chosen)
    pool.room.take(request)
    return Placement(allocation_id=request.allocation_id, host_id=pool.key[0], gpu_ids=chosen)


def _in_idle_group(
    request: QueuedRequest, fitting: Sequence[_Pool], idle: Sequence[IdleGroup]
) -> tuple[_Pool, tuple[int, ...]] | None:
    for group in idle:
        shape = (len(group.gpu_ids), group.cpu_milli, group.memory_bytes)
        if shape != (request.gpus, request.cpu_milli, request.memory_bytes):
            continue
        for pool in fitting:
            if pool.key[0] == group.host_id and group.gpu_ids <= {device.gpu_id for device in pool.free}:
                return pool, tuple(device.gpu_id for device in pool.free if device.gpu_id in group.gpu_ids)
    return None


def _best_fit(
    request: QueuedRequest, fitting: Sequence[_Pool], idle: Sequence[IdleGroup]
) -> tuple[_Pool, tuple[int, ...]]:
    pool = min(fitting, key=lambda pool: (len(pool.free), pool.room.open_cpu_milli, pool.key))
    # Capacity that was released a moment ago takes Ray about a second to give out again.
    held = {gpu_id for group in idle for gpu_id in group.gpu_ids}
    devices = sorted(pool.free, key=lambda device: device.gpu_id in held)  # stable: by index within each
    return pool, tuple(device.gpu_id for device in devices[: request.gpus])


def _reason(
    request: QueuedRequest,
    snapshot: Snapshot,
    matching: Sequence[_Pool],
    usable: Sequence[_Pool],
    ahead: int,
    now: datetime,
) -> WaitReason:
    if request.not_before is not None and request.not_before > now:
        return waiting.backing_off(request.not_before, ahead)
    if not usable:
        hosts = {pool.key[0]: pool.room.host for pool in matching}
        if request.bound_host_id is not None:
            hosts = {host.host_id: host for host in snapshot.hosts if host.host_id == request.bound_host_id}
            return waiting.bound_host_unavailable(next(iter(hosts.values()), None), ahead)
        return waiting.host_not_available(request.gpu_model, list(hosts.values()), ahead)
    figures = {
        "free": sum(pool.actually_free for pool in usable),
        "total": sum(pool.total for pool in usable),
        "wanted": request.gpus,
        "ahead": ahead,
    }
    if any(pool.would_hold_alone(request) for pool in usable):
        return waiting.behind_others(request.gpu_model, figures)
    if request.bound_host_id is not None:
        return waiting.bound_host_busy(usable[0].room.host, figures)
    return waiting.no_capacity(request.gpu_model, figures)
