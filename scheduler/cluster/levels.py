"""Topology: which hosts are in one group of a level, as numbers per pool."""

from collections.abc import Sequence

import numpy as np

from scheduler.cluster.pools import Pools
from scheduler.packing.rooms import Ints

_MAX_KNOWN = 64  # labels remembered at most


class Levels:
    """`topology` names host labels, the closest level first."""

    def __init__(self, pools: Pools, topology: Sequence[str]) -> None:
        self._pools = pools
        self._topology = tuple(topology)
        self._known: dict[tuple[str, ...], Ints] = {}
        self._views = -1

    def within(self, label: str | None) -> list[Ints]:
        """The levels to try, closest first, up to `label` if there is one, each as group numbers; 0 is no group.

        Below `label`, a group is of hosts that have both labels in common.
        """
        if label is None:
            return [self._groups((level,)) for level in self._topology]
        up_to = self._topology.index(label) if label in self._topology else len(self._topology)
        closer = [self._groups((label, level)) for level in self._topology[:up_to]]
        return [*closer, self._groups((label,))]

    def ranked(self, rows: Ints) -> Ints:
        """In an order that keeps hosts of one group together, level by level; those of one group by id."""
        keys = [self._groups((level,))[rows] for level in self._topology]
        return rows[np.lexsort((self._pools.table.rank[rows], *keys))]

    def _groups(self, labels: tuple[str, ...]) -> Ints:
        if self._views != self._pools.views or len(self._known) >= _MAX_KNOWN:
            self._views = self._pools.views
            self._known.clear()
        if labels not in self._known:
            self._known[labels] = self._numbered(labels)
        return self._known[labels]

    def _numbered(self, labels: tuple[str, ...]) -> Ints:
        values: list[tuple[str, ...] | None] = []
        for pool in self._pools.pools:
            have = [pool.host.labels.get(label) for label in labels] if pool is not None else [None]
            values.append(tuple(value for value in have if value is not None) if None not in have else None)
        # Sorted, so that the numbers do not depend on the order in which hosts came.
        numbers = {value: number for number, value in enumerate(sorted({each for each in values if each}), start=1)}
        return np.array([numbers[value] if value else 0 for value in values], dtype=np.int64)
