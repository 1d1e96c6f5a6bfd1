"""Hosts as pools: the devices of one exact model on one host, a row of the table each.

An allocation takes its devices from one model, so a pool is what it can be placed in. CPU and memory are the host's:
each of its pools shows them. A host without devices has one pool of none.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from scheduler.cluster.table import Table
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import Ints
from scheduler.views import DeviceView, HostView

NOBODY = 0
SEVERAL = -1
"""Owners of a device beside the ids of customers: nobody has a part of it; several have, which nobody can join."""

_MODELS_PER_HOST = 1024


@dataclass(frozen=True, slots=True)
class Pool:
    """`links` has for each device a bit mask of the columns that it reaches over NVLink; `columns` are by gpu id."""

    host: HostView
    model: str
    devices: tuple[DeviceView, ...]
    links: tuple[int, ...]
    columns: Mapping[int, int]


@dataclass(slots=True)
class Taken:
    """What is taken on a host: of each device (by gpu id) how many thousandths by which customer."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    devices: dict[int, dict[int, int]] = field(default_factory=dict)

    def add(self, gpu_id: int, milli: int, customer_id: int) -> None:
        """`milli` below zero gives back what was added before."""
        owners = self.devices.setdefault(gpu_id, {})
        owners[customer_id] = owners.get(customer_id, 0) + milli
        if not owners[customer_id]:
            del owners[customer_id]
            if not owners:
                del self.devices[gpu_id]

    def of(self, gpu_id: int) -> tuple[int, int]:
        """Thousandths, and whose."""
        owners = self.devices.get(gpu_id)
        if owners is None:
            return 0, NOBODY
        if len(owners) > 1:
            return sum(owners.values()), SEVERAL
        ((owner, milli),) = owners.items()
        return milli, owner


class Pools:
    """`views` counts the changes of hosts, apart from what is free on them."""

    def __init__(self) -> None:
        self.table = Table.empty()
        self.pools: list[Pool | None] = []
        self.rows: dict[int, list[int]] = {}  # by host id
        self.views = 0
        self._models: dict[str, int] = {}
        self._unused: list[int] = []

    def set_host(self, view: HostView) -> None:
        pools = _pools(view)
        rows = self.rows.get(view.host_id, [])
        if len(rows) != len(pools):
            self.drop_host(view.host_id)
            rows = [self._row() for _ in pools]
            self.rows[view.host_id] = rows
        self._widen(max(len(pool.devices) for pool in pools))
        self.views += 1
        for index, (row, pool) in enumerate(zip(rows, pools, strict=True)):
            self.pools[row] = pool
            self._describe(row, pool, index)

    def _describe(self, row: int, pool: Pool, index: int) -> None:
        table, view = self.table, pool.host
        table.largest_cpu[row], table.largest_memory[row] = view.cpu_milli, view.memory_bytes
        table.count[row] = len(pool.devices)
        table.model[row] = self._models.setdefault(pool.model, len(self._models))
        table.rank[row] = view.host_id * _MODELS_PER_HOST + index
        table.view[row] = self.views
        table.schedulable[row], table.first[row] = view.schedulable, index == 0

    def drop_host(self, host_id: int) -> None:
        for row in self.rows.pop(host_id, []):
            self.pools[row] = None
            self._unused.append(row)
            self.views += 1
            table = self.table
            for column in (table.cpu, table.memory, table.largest_cpu, table.largest_memory, table.count, table.gpus):
                column[row] = 0
            table.view[row], table.schedulable[row], table.first[row] = self.views, False, False

    def state(self, host_id: int) -> int:
        return int(self.table.state[self.rows[host_id][0]])

    def write(self, host_id: int, taken: Taken, state: int, *, only: Collection[int] | None = None) -> None:
        """What is taken on a host from now on, and the id of that state; where it is more than all, nothing is free.

        `only` are the devices (gpu ids) of which something else was taken before; None: any.
        """
        table = self.table
        for row in self.rows[host_id]:
            pool = self.pool(row)
            gpus = pool.columns if only is None else [gpu_id for gpu_id in only if gpu_id in pool.columns]
            columns = [pool.columns[gpu_id] for gpu_id in gpus]
            shares = [taken.of(gpu_id) for gpu_id in gpus]
            if only is None:
                table.gpus[row], table.owner[row] = 0, NOBODY
            table.gpus[row, columns] = [_free(milli, owner) for milli, owner in shares]
            table.owner[row, columns] = [owner for _, owner in shares]
            table.cpu[row] = max(0, pool.host.cpu_milli - taken.cpu_milli)
            table.memory[row] = max(0, pool.host.memory_bytes - taken.memory_bytes)
            table.state[row] = state

    def pool(self, row: int) -> Pool:
        pool = self.pools[row]
        assert pool is not None, f"row {row} belongs to no host"
        return pool

    def whole(self, row: int) -> int:
        """The bit mask of the devices that are free in whole."""
        free = self.table.gpus[row] == MILLI_PER_GPU
        return int.from_bytes(np.packbits(free, bitorder="little").tobytes(), "little")

    def host_ids(self, rows: Ints) -> tuple[int, ...]:
        """In ascending order, each once."""
        return tuple(np.unique(self.hosts_of(rows)).tolist())

    def count_hosts(self, rows: Ints) -> int:
        return len(np.unique(self.hosts_of(rows)))

    def hosts_of(self, rows: Ints) -> Ints:
        """The id of each row's host."""
        hosts: Ints = self.table.rank[rows] // _MODELS_PER_HOST
        return hosts

    def _row(self) -> int:
        if not self._unused:
            height = self.table.height
            self._grow(max(64, 2 * height), self.table.gpus.shape[1])
            self._unused = list(range(self.table.height - 1, height - 1, -1))
            self.pools += [None] * (self.table.height - height)
        return self._unused.pop()

    def _widen(self, devices: int) -> None:
        if devices > self.table.gpus.shape[1]:
            self._grow(self.table.height, devices)

    def _grow(self, height: int, width: int) -> None:
        self.table = self.table.grown(height, width)


def _free(milli: int, owner: int) -> int:
    """Of a device, with so much of it taken."""
    return 0 if owner == SEVERAL else max(0, MILLI_PER_GPU - milli)


def _pools(view: HostView) -> list[Pool]:
    models = sorted({device.model for device in view.devices})
    return [_pool(view, model) for model in models] or [Pool(view, "", (), (), {})]


def _pool(view: HostView, model: str) -> Pool:
    devices = tuple(device for device in view.devices if device.model == model)
    columns: Mapping[int, int] = {device.gpu_id: column for column, device in enumerate(devices)}
    links = [sum({1 << columns[peer] for peer in device.peers if peer in columns}) for device in devices]
    return Pool(view, model, devices, tuple(links), columns)
