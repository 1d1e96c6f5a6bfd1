"""What a request asks of hosts and devices whether or not they are free, as remembered masks over the pools."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from scheduler import gpu_model
from scheduler.cluster.pools import Pool, Pools
from scheduler.demand import Demand, Selector, Version
from scheduler.packing.rooms import Ints, Mask

_MAX_KNOWN = 1024  # masks remembered at most


class Condition(StrEnum):
    MODEL = "model"
    MEMORY = "memory"  # of each GPU
    SELECTOR = "selector"
    DRIVER = "driver"
    CUDA = "cuda"
    BOUND_HOST = "bound_host"
    COUNT = "count"  # GPUs on one host
    CPU = "cpu"
    MEMORY_BYTES = "memory_bytes"  # of the host


@dataclass(frozen=True, slots=True)
class Conditions:
    """Those that devices, labels and versions decide. Of requests without GPUs, models and GPU memory say nothing."""

    models: tuple[str, ...]
    gpu_memory_bytes: int
    selectors: tuple[Selector, ...]
    driver: Version
    cuda: Version
    gpus: bool

    @staticmethod
    def of(demand: Demand) -> "Conditions":
        gpus = demand.shape.gpus > 0
        models, memory = (demand.models, demand.gpu_memory_bytes) if gpus else ((), 0)
        return Conditions(models, memory, demand.selectors, demand.driver, demand.cuda, gpus)

    def met_by(self, pool: Pool) -> bool:
        host = pool.host
        return (
            (not self.gpus or _model_matches(self.models, pool.model))
            and all(device.memory_bytes >= self.gpu_memory_bytes for device in pool.devices)
            and all(selector.matches(host.labels) for selector in self.selectors)
            and host.driver >= self.driver
            and host.cuda >= self.cuda
        )


@dataclass(slots=True)
class _Known:
    mask: Mask
    view: Ints
    views: int


class Matching:
    """Which pools meet a request's conditions. A mask is looked at again only where a host has changed."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._known: dict[Conditions, _Known] = {}
        self._images: dict[str, Mask] = {}
        self._images_at = -1

    def meets(self, demand: Demand) -> Mask:
        """The pools that meet all conditions but those of size; of hosts that take new work or not."""
        conditions = Conditions.of(demand)
        mask = self._mask(conditions)
        if demand.bound_host_id is None:
            return mask
        bound = np.zeros_like(mask)
        rows = self._pools.rows.get(demand.bound_host_id, [])
        bound[rows] = mask[rows]
        return bound

    def large_enough(self, demand: Demand) -> Mask:
        """The pools that could take a part of it if nobody had anything."""
        table, shape = self._pools.table, demand.shape
        sizes: Mask = (
            (table.count >= shape.gpus)
            & (table.largest_cpu >= shape.cpu_milli)
            & (table.largest_memory >= shape.memory_bytes)
        )
        return sizes

    def has_image(self, image: str) -> Mask:
        """The pools of hosts that have it."""
        if self._images_at != self._pools.views or len(self._images) >= _MAX_KNOWN:
            self._images, self._images_at = {}, self._pools.views
        if image not in self._images:
            have = [pool is not None and image in pool.host.images for pool in self._pools.pools]
            self._images[image] = np.array(have, dtype=np.bool_)
        return self._images[image]

    def excluding(self, demand: Demand) -> Condition | None:
        """The first condition that no host at all meets, if there is one."""
        pools = [pool for pool in self._pools.pools if pool is not None]
        return next((each for each in Condition if not any(_meets(each, demand, pool) for pool in pools)), None)

    def _mask(self, conditions: Conditions) -> Mask:
        known = self._known.pop(conditions, None) or _Known(np.zeros(0, np.bool_), np.zeros(0, np.int64), -1)
        self._known[conditions] = known  # the last used is the last
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        if known.views != self._pools.views:
            self._refresh(conditions, known)
        return known.mask

    def _refresh(self, conditions: Conditions, known: _Known) -> None:
        table = self._pools.table
        if len(known.mask) != table.height:
            known.mask, known.view = np.zeros(table.height, np.bool_), np.full(table.height, -1)
        for row in np.flatnonzero(known.view != table.view):
            pool = self._pools.pools[row]
            known.mask[row] = pool is not None and _eligible(conditions, pool, first=bool(table.first[row]))
        known.view, known.views = table.view.copy(), self._pools.views


def _eligible(conditions: Conditions, pool: Pool, *, first: bool) -> bool:
    """A request without GPUs looks at one pool of each host: any will do, so it is the first."""
    return (bool(pool.devices) if conditions.gpus else first) and conditions.met_by(pool)


def _meets(condition: Condition, demand: Demand, pool: Pool) -> bool:
    host, shape = pool.host, demand.shape
    match condition:
        case Condition.MODEL:
            return not shape.gpus or (bool(pool.devices) and _model_matches(demand.models, pool.model))
        case Condition.MEMORY:
            enough = all(device.memory_bytes >= demand.gpu_memory_bytes for device in pool.devices)
            return not shape.gpus or (bool(pool.devices) and enough)
        case Condition.SELECTOR:
            return all(selector.matches(host.labels) for selector in demand.selectors)
        case Condition.DRIVER:
            return host.driver >= demand.driver
        case Condition.CUDA:
            return host.cuda >= demand.cuda
        case Condition.BOUND_HOST:
            return demand.bound_host_id in (None, host.host_id)
        case Condition.COUNT:
            return len(pool.devices) >= shape.gpus
        case Condition.CPU:
            return host.cpu_milli >= shape.cpu_milli
        case Condition.MEMORY_BYTES:
            return host.memory_bytes >= shape.memory_bytes


@lru_cache(maxsize=16_384)
def _model_matches(models: tuple[str, ...], model: str) -> bool:
    return not models or any(gpu_model.matches(wanted, model) for wanted in models)
