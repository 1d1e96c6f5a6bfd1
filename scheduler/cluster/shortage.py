"""Figures that explain why a request does not fit now."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from scheduler.cluster.conditions import Condition, Matching
from scheduler.cluster.pools import Pools
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU


@dataclass(frozen=True, slots=True)
class Shortage:
    """Of the hosts that meet a request's conditions and are large enough for a part of it.

    `free_gpus` and `most_free` count devices with as much free as the request takes of one, whole ones or shared with
    its customer; what is set aside is not free. Hosts `with_gpus` have enough of them now, hosts `with_room` have the
    CPU and memory too; of those, `apart` have another of the request's set. `free_cpu_milli` and `free_memory_bytes`
    are the most on one of those with GPUs. `excluding` is the condition that no host meets, if one alone rules out all.
    """

    hosts: int
    schedulable: int  # of `hosts`; what follows is of these
    gpus: int
    free_gpus: int
    most_free: int  # on one host
    with_gpus: int
    with_room: int
    apart: int
    free_cpu_milli: int
    free_memory_bytes: int
    excluding: Condition | None = None


def shortage(pools: Pools, matching: Matching, demand: Demand, *, customer_id: int, apart: Collection[int]) -> Shortage:
    """`apart` are the hosts that have another of its set."""
    table, shape = pools.table, demand.shape
    meeting = np.flatnonzero(matching.meets(demand) & matching.large_enough(demand))
    rows = meeting[table.schedulable[meeting]]
    usable = (table.gpus[rows] == MILLI_PER_GPU) | (table.owner[rows] == customer_id)
    free = (usable & (table.gpus[rows] >= shape.milli)).sum(axis=1)
    enough = rows[free >= shape.gpus]
    room = (table.cpu[enough] >= shape.cpu_milli) & (table.memory[enough] >= shape.memory_bytes)
    return Shortage(
        hosts=pools.count_hosts(meeting),
        schedulable=pools.count_hosts(rows),
        gpus=int(table.count[rows].sum()),
        free_gpus=int(free.sum()),
        most_free=int(free.max(initial=0)),
        with_gpus=pools.count_hosts(enough),
        with_room=pools.count_hosts(enough[room]),
        apart=len(set(pools.host_ids(enough[room])).intersection(apart)),
        free_cpu_milli=int(table.cpu[enough].max(initial=0)),
        free_memory_bytes=int(table.memory[enough].max(initial=0)),
        excluding=None if len(meeting) else matching.excluding(demand),
    )
