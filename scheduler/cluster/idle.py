"""Placement groups that nobody owns, and what in the cluster they keep ready."""

from collections.abc import Sequence

from scheduler.cluster.pools import Pool, Pools
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import Mask
from scheduler.views import IdleGroup, Part


class IdleGroups:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._groups: dict[tuple[int, int, int], list[IdleGroup]] = {}
        self._held: frozenset[int] = frozenset()

    def set(self, groups: Sequence[IdleGroup]) -> None:
        self._groups = {}
        for group in sorted(groups, key=lambda group: group.name):
            size = len(group.gpu_ids), group.cpu_milli, group.memory_bytes
            self._groups.setdefault(size, []).append(group)
        self._held = frozenset(gpu_id for group in groups for gpu_id in group.gpu_ids)

    def exactly(self, demand: Demand, allowed: Mask) -> Part | None:
        """A group on an allowed pool with exactly what the request needs, all of it free."""
        shape = demand.shape
        if demand.nodes > 1 or shape.milli < MILLI_PER_GPU:
            return None
        for group in self._groups.get((shape.gpus, shape.cpu_milli, shape.memory_bytes), ()):
            for row in self._pools.rows.get(group.host_id, ()):
                if allowed[row] and self._free(row, group):
                    ordered = [device.gpu_id for device in self._pools.pool(row).devices]
                    return Part(
                        group.host_id, tuple((each, MILLI_PER_GPU) for each in ordered if each in group.gpu_ids)
                    )
        return None

    def columns(self, pool: Pool) -> int:
        """The bit mask of the pool's devices that a group holds."""
        if not self._held:
            return 0
        return sum(1 << column for column, device in enumerate(pool.devices) if device.gpu_id in self._held)

    def _free(self, row: int, group: IdleGroup) -> bool:
        table, pool, whole = self._pools.table, self._pools.pool(row), self._pools.whole(row)
        free = {device.gpu_id for column, device in enumerate(pool.devices) if whole >> column & 1}
        fits = table.cpu[row] >= group.cpu_milli and table.memory[row] >= group.memory_bytes
        return bool(fits) and group.gpu_ids <= free
