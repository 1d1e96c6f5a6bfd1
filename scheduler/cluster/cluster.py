"""The hosts, who has what on them, and where a request fits best."""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from scheduler.cluster import gang
from scheduler.cluster.claims import Claim, Claims, Key
from scheduler.cluster.conditions import Matching
from scheduler.cluster.devices import pick
from scheduler.cluster.idle import IdleGroups
from scheduler.cluster.levels import Levels
from scheduler.cluster.pools import Pools
from scheduler.cluster.room import Room
from scheduler.cluster.scores import Best, Scores
from scheduler.cluster.shortage import Shortage, shortage
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import Floats, Ints, Mask
from scheduler.packing.scoring import Scoring
from scheduler.packing.shape import Shape
from scheduler.views import HostView, IdleGroup, Part

TOPOLOGY = ("rack", "zone")
"""Host labels that say how close hosts are, closest first. (A host itself is closer than any.)"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all hosts that take new work, in use or not."""

    gpu_milli: int
    cpu_milli: int
    memory_bytes: int


class Cluster:
    """What is free, as of the calls so far. Deterministic: the same calls give the same answers.

    Hosts and claims are independent of each other: an allocation may hold parts of a host that is not known, or not
    any more, or that has fewer devices by now. What it holds counts again when the host is back.
    """

    def __init__(self, scoring: Scoring, *, topology: Sequence[str] = TOPOLOGY) -> None:
        self._scoring = scoring
        self._pools = Pools()
        self._claims = Claims(self._pools)
        self._matching = Matching(self._pools)
        self._scores = Scores(self._pools, scoring)
        self._levels = Levels(self._pools, topology)
        self._idle = IdleGroups(self._pools)
        self._totals = Totals(0, 0, 0)
        self._totals_at = 0

    def observe(self, shape: Shape) -> None:
        """A request of this shape has arrived: scoring learns what usually comes."""
        self._scoring.observe(shape)

    def set_host(self, view: HostView) -> None:
        """A host is new or has changed.

        Raises:
            ValueError: in a trial.
        """
        self._no_trial()
        if view != self.host(view.host_id):
            self._pools.set_host(view)
            self._claims.changed(view.host_id)

    def drop_host(self, host_id: int) -> None:
        """
        Raises:
            ValueError: in a trial.
        """
        self._no_trial()
        self._pools.drop_host(host_id)
        self._claims.forget_host(host_id)

    def set_idle_groups(self, groups: Sequence[IdleGroup]) -> None:
        """All placement groups that nobody owns; a request that one fits exactly goes there, others avoid them."""
        self._idle.set(groups)

    def hold(self, allocation_id: int, customer_id: int, demand: Demand, parts: Sequence[Part]) -> None:
        """The allocation has these parts, with the CPU and memory of `demand` on each, instead of any it had before.

        Raises:
            ValueError: two parts are on one host.
        """
        self._claims.set(Key(allocation_id), Claim.of(demand, customer_id, parts))

    def release(self, allocation_id: int) -> None:
        """The allocation has nothing; also if it had nothing."""
        self._claims.set(Key(allocation_id), None)

    def set_aside(self, name: Hashable, customer_id: int, demand: Demand, parts: Sequence[Part]) -> None:
        """Keep these parts from `find`, under a name other than any allocation's. They may be held by others."""
        self._claims.set(Key(name, aside=True), Claim.of(demand, customer_id, parts))

    def clear_aside(self, name: Hashable) -> None:
        self._claims.set(Key(name, aside=True), None)

    def trial(self) -> AbstractContextManager[None]:
        """What is held, released, set aside and cleared inside is undone at the end. Trials may nest."""
        return self._claims.trial()

    def parts_of(self, allocation_id: int) -> tuple[Part, ...]:
        claim = self._claims.get(Key(allocation_id))
        return () if claim is None else claim.parts

    def parts_on(self, host_id: int) -> tuple[int, ...]:
        """The allocations that hold something of the host, by id."""
        return self._claims.allocations_on(host_id)

    @property
    def totals(self) -> Totals:
        if self._totals_at != self._pools.views:
            table = self._pools.table
            hosts = table.schedulable & table.first
            self._totals = Totals(
                int(table.count[table.schedulable].sum()) * MILLI_PER_GPU,
                int(table.largest_cpu[hosts].sum()),
                int(table.largest_memory[hosts].sum()),
            )
            self._totals_at = self._pools.views
        return self._totals

    def find(self, demand: Demand, customer_id: int) -> tuple[Part, ...] | None:
        """The best place for all nodes of the request, in the order of their ranks, or None: all or nothing.

        A request without GPUs goes to hosts that have none, if there are enough; else the scoring decides.
        """
        self._claims.flush()
        allowed = self._allowed(demand, customer_id)
        if not demand.shape.gpus:
            bare = allowed & (self._pools.table.count == 0)
            found = self._find(demand, customer_id, bare) if bare.any() else None
            if found is not None:
                return found
        return self._find(demand, customer_id, allowed)

    def _find(self, demand: Demand, customer_id: int, allowed: Mask) -> tuple[Part, ...] | None:
        idle = self._idle.exactly(demand, allowed)
        if idle is not None:
            return (idle,)
        sharing = customer_id if self._claims.shares(customer_id) else None
        best = self._scores.best(demand.shape, sharing)
        score = np.where(allowed, best.score, np.inf)
        if demand.image:
            score -= self._scoring.image_weight * self._matching.has_image(demand.image)
        rows = self._best_row(score) if demand.nodes == 1 else self._gang(demand, allowed, score)
        return None if rows is None else tuple(self._part(int(row), demand, best) for row in rows)

    def could_ever(self, demand: Demand, *, schedulable: bool = False) -> bool:
        """Whether it would fit if nobody had anything; with `schedulable`, on the hosts that take new work."""
        large = self._matching.meets(demand) & self._matching.large_enough(demand)
        if schedulable:
            large &= self._pools.table.schedulable
        if demand.nodes == 1:
            return bool(large.any())
        return self._gang(demand, large, np.where(large, 0.0, np.inf)) is not None

    def hosts_for(self, demand: Demand, *, schedulable: bool = True) -> tuple[int, ...]:
        """The hosts, by id, that meet all conditions and would have room for a part if it were free; by default only
        those that take new work.
        """
        fitting = self._matching.meets(demand) & self._matching.large_enough(demand)
        if schedulable:
            fitting &= self._pools.table.schedulable
        return self._pools.host_ids(np.flatnonzero(fitting))

    def rooms(self, host_id: int, demand: Demand) -> list[Room]:
        """What is free on the host, of each model with which the conditions are met."""
        meets, taken = self._matching.meets(demand), self._claims.taken(host_id)
        return [Room.of(self._pools.pool(row), taken) for row in self._pools.rows.get(host_id, []) if meets[row]]

    def free_milli(self, demand: Demand) -> tuple[Ints, Ints]:
        """The hosts as `hosts_for` has them, and what is free there of devices that meet the conditions."""
        table = self._pools.table
        fitting = self._matching.meets(demand) & self._matching.large_enough(demand) & table.schedulable
        rows = np.flatnonzero(fitting)
        hosts, where = np.unique(self._pools.hosts_of(rows), return_inverse=True)
        free = np.zeros(len(hosts), dtype=np.int64)
        np.add.at(free, where, table.gpus[rows].sum(axis=1))
        return hosts, free

    def models(self, demand: Demand) -> tuple[str, ...]:
        """The exact models, on hosts that take new work, with which the conditions are met; none without GPUs."""
        if not demand.shape.gpus:
            return ()
        rows = np.flatnonzero(self._matching.meets(demand) & self._pools.table.schedulable)
        _, firsts = np.unique(self._pools.table.model[rows], return_index=True)
        return tuple(sorted(self._pools.pool(int(row)).model for row in rows[firsts]))

    def host(self, host_id: int) -> HostView | None:
        rows = self._pools.rows.get(host_id)
        return self._pools.pool(rows[0]).host if rows else None

    def hosts_apart(self, demand: Demand, customer_id: int) -> frozenset[int]:
        """The hosts that have another of the request's set, by id, or a place that is kept for one."""
        return frozenset() if demand.apart is None else frozenset(self._claims.apart(customer_id, demand.apart))

    def shortage(self, demand: Demand, customer_id: int) -> Shortage:
        """Why it does not fit, in figures."""
        self._claims.flush()
        apart = self.hosts_apart(demand, customer_id)
        return shortage(self._pools, self._matching, demand, customer_id=customer_id, apart=apart)

    def _allowed(self, demand: Demand, customer_id: int) -> Mask:
        allowed: Mask = self._matching.meets(demand) & self._pools.table.schedulable
        if demand.apart is not None:
            for host_id in self._claims.apart(customer_id, demand.apart):
                allowed[self._pools.rows.get(host_id, [])] = False
        return allowed

    def _best_row(self, score: Floats) -> Ints | None:
        lowest = score.min(initial=np.inf)
        if not np.isfinite(lowest):
            return None
        ties = np.flatnonzero(score == lowest)
        return ties[[np.argmin(self._pools.table.rank[ties])]]

    def _gang(self, demand: Demand, allowed: Mask, score: Floats) -> Ints | None:
        table = self._pools.table
        rows = np.flatnonzero(allowed)
        gpus = demand.shape.gpus > 0
        field = gang.Field(
            score[rows],
            table.model[rows] if gpus else np.zeros(len(rows), dtype=np.int64),
            table.gpus[rows].sum(axis=1) if gpus else table.cpu[rows],
            table.rank[rows],
        )
        levels = [level[rows] for level in self._levels.within(demand.within)]
        chosen = gang.choose(field, levels, demand.nodes, anywhere=demand.within is None)
        return None if chosen is None else self._levels.ranked(rows[chosen])

    def _part(self, row: int, demand: Demand, best: Best) -> Part:
        pool, shape = self._pools.pool(row), demand.shape
        column = int(best.device[row])
        if column >= 0:
            columns: tuple[int, ...] = (column,)
        else:
            columns = pick(pool.links, self._pools.whole(row), shape.gpus, self._idle.columns(pool))
        return Part(pool.host.host_id, tuple((pool.devices[each].gpu_id, shape.milli) for each in columns))

    def _no_trial(self) -> None:
        if self._claims.in_trial:
            raise ValueError("hosts can't change in a trial")
