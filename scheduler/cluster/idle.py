"""Placement groups that nobody owns, and what in the cluster they keep ready."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.cluster.pools import Pool, Pools
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import Ints, Mask
from scheduler.views import IdleGroup, Part

_Size = tuple[int, int, int]  # GPUs, milli-cores, bytes


@dataclass(frozen=True, slots=True)
class _Found:
    """Groups of one size whose devices are in one pool: its row, and the columns of their devices, a row each."""

    rows: Ints
    columns: Ints


class IdleGroups:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._groups: dict[_Size, list[IdleGroup]] = {}
        self._held: frozenset[int] = frozenset()
        self._found: dict[_Size, _Found] = {}
        self._found_at = 0  # as of which change of hosts

    def set(self, groups: Sequence[IdleGroup]) -> None:
        self._groups = {}
        self._found.clear()
        for group in sorted(groups, key=lambda group: group.name):
            size = len(group.gpu_ids), group.cpu_milli, group.memory_bytes
            self._groups.setdefault(size, []).append(group)
        self._held = frozenset(gpu_id for group in groups for gpu_id in group.gpu_ids)

    def exactly(self, demand: Demand, allowed: Mask) -> Part | None:
        """A group on an allowed pool with exactly what the request needs, all of it free."""
        shape = demand.shape
        size = shape.gpus, shape.cpu_milli, shape.memory_bytes
        if demand.nodes > 1 or shape.milli < MILLI_PER_GPU or size not in self._groups:
            return None
        found, table = self._of_size(size), self._pools.table
        free = (table.gpus[found.rows[:, None], found.columns] == MILLI_PER_GPU).all(axis=1) & allowed[found.rows]
        free &= (table.cpu[found.rows] >= shape.cpu_milli) & (table.memory[found.rows] >= shape.memory_bytes)
        if not free.any():
            return None
        first = int(np.argmax(free))
        pool = self._pools.pool(int(found.rows[first]))
        columns = sorted(found.columns[first].tolist())
        return Part(pool.host.host_id, tuple((pool.devices[column].gpu_id, MILLI_PER_GPU) for column in columns))

    def columns(self, pool: Pool) -> int:
        """The bit mask of the pool's devices that a group holds."""
        if not self._held:
            return 0
        return sum(1 << column for column, device in enumerate(pool.devices) if device.gpu_id in self._held)

    def _of_size(self, size: _Size) -> _Found:
        if self._found_at != self._pools.views:
            self._found.clear()
            self._found_at = self._pools.views
        if size not in self._found:
            places = [place for group in self._groups[size] if (place := self._place(group)) is not None]
            self._found[size] = _Found(
                np.array([row for row, _ in places], dtype=np.int64),
                np.array([columns for _, columns in places], dtype=np.int64).reshape(len(places), size[0]),
            )
        return self._found[size]

    def _place(self, group: IdleGroup) -> tuple[int, list[int]] | None:
        """The row of the pool that has all of its devices, and their columns."""
        for row in self._pools.rows.get(group.host_id, ()):
            known = self._pools.pool(row).columns
            columns = [known[gpu_id] for gpu_id in group.gpu_ids if gpu_id in known]
            if len(columns) == len(group.gpu_ids):
                return row, columns
        return None
