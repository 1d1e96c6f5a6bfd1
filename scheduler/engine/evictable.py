"""How much of each host could be cleared for whom, as arrays: an estimate that says where to look closely."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from scheduler.packing.rooms import Floats, Ints
from scheduler.views import Held

_PREEMPTIBLE = None  # a key beside those of groups


@dataclass(frozen=True, slots=True, order=True)
class Class:
    """What decides about eviction, but for time and for what is borrowed at the moment."""

    group: str
    priority: int
    preemptible: bool


@dataclass(slots=True)
class _Sums:
    """By the host's column: thousandths of GPUs, and those times the second (since the epoch) at which work began."""

    milli: Floats
    begun: Floats


@dataclass(slots=True)
class Evictable:
    """Sums over what is held, by class and host."""

    _columns: dict[int, int] = field(default_factory=dict)
    _sums: dict[Class, _Sums] = field(default_factory=dict)
    _counts: dict[Class, int] = field(default_factory=dict)
    _width: int = 64
    _by_group: dict[str | None, list[Class]] | None = None

    def add(self, held: Held, sign: int = 1) -> None:
        kind = Class(held.request.group or "", held.request.priority, held.request.preemptible)
        sums = self._sums.get(kind)
        if sums is None:
            self._by_group = None
            sums = self._sums[kind] = _Sums(np.zeros(self._width), np.zeros(self._width))
        begun = (held.checkpoint_at or held.since).timestamp()
        for part in held.parts:
            column = self._column(part.host_id)
            milli = sign * sum(share for _, share in part.devices)
            sums = self._sums[kind]
            sums.milli[column] += milli
            sums.begun[column] += milli * begun
        self._counts[kind] = self._counts.get(kind, 0) + sign
        if not self._counts[kind]:
            del self._counts[kind], self._sums[kind]
            self._by_group = None

    def remove(self, held: Held) -> None:
        self.add(held, -1)

    def classes(self, groups: Iterable[str]) -> list[Class]:
        """Of these groups, and what is preemptible in any."""
        if self._by_group is None:
            self._by_group = {}
            for kind in sorted(self._sums):
                self._by_group.setdefault(_PREEMPTIBLE if kind.preemptible else kind.group, []).append(kind)
        found = list(self._by_group.get(_PREEMPTIBLE, ()))
        for group in groups:
            found += self._by_group.get(group, ())
        return found

    def cheapest_hosts(
        self, classes: Iterable[Class], hosts: Ints, free_milli: Ints, needed_milli: int, *, now_s: float, most: int
    ) -> list[int]:
        """Of `hosts` (ids), with what is free on each, those that could be cleared so far: at most so many, those
        first on which the least work is expected to be lost.
        """
        columns = np.array([self._column(host_id) for host_id in hosts.tolist()], dtype=np.int64)
        milli, begun = np.zeros(self._width), np.zeros(self._width)
        for kind in classes:
            milli += self._sums[kind].milli
            begun += self._sums[kind].begun
        milli, begun = milli[columns], begun[columns]
        possible = free_milli + milli >= needed_milli
        with np.errstate(divide="ignore", invalid="ignore"):
            age = np.where(milli > 0, now_s - begun / milli, 0.0)
        cost = np.where(possible, np.maximum(0, needed_milli - free_milli) * age, np.inf)
        order = np.lexsort((hosts, cost))[:most]
        return [int(hosts[index]) for index in order if np.isfinite(cost[index])]

    def _column(self, host_id: int) -> int:
        column = self._columns.get(host_id)
        if column is None:
            column = self._columns[host_id] = len(self._columns)
            if column >= self._width:
                self._width *= 2
                for sums in self._sums.values():
                    sums.milli = np.pad(sums.milli, (0, self._width - len(sums.milli)))
                    sums.begun = np.pad(sums.begun, (0, self._width - len(sums.begun)))
        return column
