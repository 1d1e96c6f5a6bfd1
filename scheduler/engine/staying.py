"""Whether a place that is kept for a request is free, and whether it stays with a place that is not certain.

Estimates change all the time. A request that followed them would wait now here and now there, and what has ended in one
place would be given to others meanwhile: a large one might never start. So it moves only to where less is in its way.
What is in the way in the place that is kept becomes less with everything that ends there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.cluster.cluster import Cluster
from scheduler.cluster.pools import NOBODY
from scheduler.demand import Demand
from scheduler.engine.expected_ends import ExpectedEnd
from scheduler.engine.holdings import Holdings
from scheduler.engine.kept import Kept
from scheduler.engine.lookahead import Start
from scheduler.views import Part, Request


@dataclass(frozen=True, slots=True)
class _Way:
    """What has to end in a place, and the allocations that have it: thousandths of its devices; or milli-cores, where
    no devices are asked for.
    """

    milli: int
    allocations: frozenset[int]


def stay_or_move(
    cluster: Cluster, holdings: Holdings, kept: Kept | None, start: Start, ends: Sequence[ExpectedEnd]
) -> Start:
    """`start` is what was found now. Nothing is kept for the request in the cluster at the moment."""
    if kept is None or kept.awaits or start.certain or start.parts == kept.parts:
        return start
    demand = kept.request.demand
    here, there = (_way(cluster, holdings, demand, parts, ends) for parts in (kept.parts, start.parts))
    if here is None or there is None or there.milli < here.milli:
        return start
    at = max((end.at for end in ends if end.allocation_id in here.allocations), default=start.at)
    return Start(max(at, start.at), kept.parts, False)


def is_free(cluster: Cluster, request: Request, parts: Sequence[Part]) -> bool:
    """Whether the request could start on exactly these devices now."""
    shape, apart = request.demand.shape, cluster.hosts_apart(request.demand, request.customer_id)
    for part in parts:
        host = cluster.host(part.host_id)
        rooms = cluster.rooms(part.host_id, request.demand) if host is not None and host.schedulable else []
        if not rooms or part.host_id in apart:
            return False
        if rooms[0].cpu_milli < shape.cpu_milli or rooms[0].memory_bytes < shape.memory_bytes:
            return False
        usable = {
            device.gpu_id
            for room in rooms
            for device in room.devices
            if device.free_milli >= shape.milli and device.owner in (NOBODY, request.customer_id)
        }
        if not usable.issuperset(gpu_id for gpu_id, _ in part.devices):
            return False
    return True


def _way(
    cluster: Cluster, holdings: Holdings, demand: Demand, parts: Sequence[Part], ends: Sequence[ExpectedEnd]
) -> _Way | None:
    """None if the request would not fit there even when what has its devices has ended."""
    if not demand.shape.gpus:
        return _way_without_devices(cluster, holdings, demand, parts, ends)
    allocations, milli = set[int](), 0
    for part in parts:
        host = cluster.host(part.host_id)
        rooms = cluster.rooms(part.host_id, demand) if host is not None and host.schedulable else []
        free = {device.gpu_id: device.free_milli for room in rooms for device in room.devices}
        cpu_milli, memory_bytes = (rooms[0].cpu_milli, rooms[0].memory_bytes) if rooms else (-1, -1)
        wanted = {gpu_id for gpu_id, _ in part.devices}
        for held in holdings.on_host(part.host_id):
            taken = [pair for other in held.parts for pair in other.devices if pair[0] in wanted]
            if taken:
                allocations.add(held.request.allocation_id)
                milli += sum(share for _, share in taken)
                cpu_milli += held.request.demand.shape.cpu_milli
                memory_bytes += held.request.demand.shape.memory_bytes
            for gpu_id, share in taken:
                free[gpu_id] = free.get(gpu_id, 0) + share
        shape = demand.shape
        if cpu_milli < shape.cpu_milli or memory_bytes < shape.memory_bytes:
            return None
        if any(free.get(gpu_id, 0) < shape.milli for gpu_id in wanted):
            return None
    return _Way(milli, frozenset(allocations))


def _way_without_devices(
    cluster: Cluster, holdings: Holdings, demand: Demand, parts: Sequence[Part], ends: Sequence[ExpectedEnd]
) -> _Way | None:
    """Whatever ends first on its hosts makes room, until there is enough."""
    shape, allocations, milli = demand.shape, set[int](), 0
    for part in parts:
        host = cluster.host(part.host_id)
        rooms = cluster.rooms(part.host_id, demand) if host is not None and host.schedulable else []
        if not rooms:
            return None
        cpu_milli, memory_bytes = rooms[0].cpu_milli, rooms[0].memory_bytes
        there = {held.request.allocation_id: held.request.demand.shape for held in holdings.on_host(part.host_id)}
        for number in (end.allocation_id for end in ends):
            if cpu_milli >= shape.cpu_milli and memory_bytes >= shape.memory_bytes:
                break
            if number is None or number not in there:
                continue
            allocations.add(number)
            milli += there[number].cpu_milli
            cpu_milli += there[number].cpu_milli
            memory_bytes += there[number].memory_bytes
        if cpu_milli < shape.cpu_milli or memory_bytes < shape.memory_bytes:
            return None
    return _Way(milli, frozenset(allocations))
