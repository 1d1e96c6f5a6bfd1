"""The named policies that say which of the ways to place a request is best: the lowest score.

`docs/explanation/packing.md` gives each one's source and what it reaches on a public trace.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import Floats, Options, Rooms
from scheduler.packing.shape import Shape
from scheduler.packing.workload import Mix, Workload

_CHUNK = 512  # options scored at a time: bounds the memory of the arrays in between


class PackingPolicy(StrEnum):
    FRAGMENTATION = "fragmentation"
    BEST_FIT = "best-fit"
    SPREAD = "spread"
    DOT_PRODUCT = "dot-product"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Scale:
    """What a host has at most, in each dimension: scores add up shares of it."""

    cpu_milli: int
    gpu_milli: int


class Scoring(Protocol):
    @property
    def version(self) -> int:
        """Scores of the same option are the same as long as this is; below zero: they never are."""

    @property
    def joins_shared(self) -> bool:
        """Whether a share goes to a device that its customer shares already wherever that fits, whatever the score."""

    @property
    def image_weight(self) -> float:
        """By how much a host's score is better for having the request's image: little, so that it decides ties."""

    def observe(self, shape: Shape) -> None:
        """A request of this shape has arrived."""

    def score(self, options: Options, shape: Shape, scale: Scale) -> Floats:
        """A number per option; the lowest is the best."""


@dataclass(slots=True)
class Fragmentation:
    """Leave as little as possible that the usual requests can't use, then as little as possible.

    Three terms, all in thousandths of GPUs. First the growth of expected fragmentation as FGD defines it: for each
    shape of the workload by its share, what is free of the host's GPUs and could not be used by a request of that
    shape. FGD looks at one request at a time, so it lets hosts run out of CPU while several GPUs are still free. The
    second term counts those: the growth of the GPUs left without the CPU that such GPUs take on average. The third is
    best fit, among what the first two find equal.
    """

    workload: Workload = field(default_factory=Workload)
    stranding_weight: float = 1.0
    fit_weight: float = 30.0
    joins_shared: bool = True
    image_weight: float = 3.0

    @property
    def version(self) -> int:
        return self.workload.version

    def observe(self, shape: Shape) -> None:
        self.workload.observe(shape)

    def score(self, options: Options, shape: Shape, scale: Scale) -> Floats:
        mix = self.workload.mix
        grown = unusable(options.after, mix) - unusable(options.before, mix)
        stranded = _stranded(options.after, mix) - _stranded(options.before, mix)
        return grown + self.stranding_weight * stranded + self.fit_weight * _remaining(options.after, scale)


@dataclass(frozen=True, slots=True)
class BestFit:
    """The host with the least CPU and GPU left, each as a share of the largest host's; on it, the fullest device."""

    version: int = 0
    joins_shared: bool = True
    image_weight: float = 0.02

    def observe(self, shape: Shape) -> None:
        pass

    def score(self, options: Options, shape: Shape, scale: Scale) -> Floats:
        return _remaining(options.after, scale) + _emptiness(options)


@dataclass(frozen=True, slots=True)
class Spread:
    """The host with the most left: for latency rather than for packing."""

    version: int = 0
    joins_shared: bool = True
    image_weight: float = 0.02

    def observe(self, shape: Shape) -> None:
        pass

    def score(self, options: Options, shape: Shape, scale: Scale) -> Floats:
        return -_remaining(options.after, scale) - _emptiness(options)


@dataclass(frozen=True, slots=True)
class DotProduct:
    """The host whose free CPU, memory and GPU point least in the direction of the request: big rooms are kept."""

    version: int = 0
    joins_shared: bool = True
    image_weight: float = 0.02

    def observe(self, shape: Shape) -> None:
        pass

    def score(self, options: Options, shape: Shape, scale: Scale) -> Floats:
        before = options.before
        cpu = before.cpu * (shape.cpu_milli / scale.cpu_milli**2)
        gpu = before.free_milli * (shape.gpu_milli / scale.gpu_milli**2)
        return np.asarray(cpu + gpu + _emptiness(options), dtype=np.float64)


@dataclass(slots=True)
class Random:
    """Any host that it fits on, any device: what the others are compared with."""

    generator: np.random.Generator
    version: int = -1
    joins_shared: bool = False
    image_weight: float = 0.0

    def observe(self, shape: Shape) -> None:
        pass

    def score(self, options: Options, shape: Shape, scale: Scale) -> Floats:
        if not len(options.row):
            return np.zeros(0)
        by_host = self.generator.random(int(options.row.max()) + 1)
        return by_host[options.row] + 1e-9 * self.generator.random(len(options.row))


def make_scoring(policy: PackingPolicy, *, seed: int = 0) -> Scoring:
    if policy is PackingPolicy.RANDOM:
        return Random(np.random.default_rng(seed))
    if policy is PackingPolicy.FRAGMENTATION:
        return Fragmentation()
    plain: dict[PackingPolicy, Scoring] = {
        PackingPolicy.BEST_FIT: BestFit(),
        PackingPolicy.SPREAD: Spread(),
        PackingPolicy.DOT_PRODUCT: DotProduct(),
    }
    return plain[policy]


def unusable(rooms: Rooms, mix: Mix) -> Floats:
    """The free GPU thousandths of each host that a request of the mix can't use, on average over the mix.

    All of them, if it does not fit on the host; else those of the devices with less free than it takes of one. (Weng
    et al., "Beware of Fragmentation", USENIX ATC 2023, section 3.)
    """
    parts = [_unusable(rooms.take(rows), mix) for rows in _chunks(len(rooms.cpu))]
    return np.concatenate(parts) if parts else np.zeros(0)


def _unusable(rooms: Rooms, mix: Mix) -> Floats:
    # In whole numbers up to the last step: the result for a host must not depend on which others are looked at too.
    requests = int(mix.requests.sum())
    if not requests:
        return np.zeros(len(rooms.cpu))
    large_enough = rooms.gpus[:, :, None] >= mix.sizes
    usable = np.einsum("hd,hds->hs", rooms.gpus, large_enough)  # by size
    fitting = np.take(large_enough.sum(axis=1, dtype=np.int16), mix.size, axis=1) >= mix.gpus
    fitting &= rooms.cpu[:, None] >= mix.cpu
    fitting &= rooms.memory[:, None] >= mix.memory
    served = np.add.reduceat(fitting * mix.requests, mix.starts, axis=1)  # requests, by size
    lost = rooms.free_milli * requests - (usable * served).sum(axis=1)
    return np.asarray(lost / requests, dtype=np.float64)


def _stranded(rooms: Rooms, mix: Mix) -> Floats:
    if not mix.cpu_per_gpu:
        return np.zeros(len(rooms.cpu))
    return np.maximum(0.0, rooms.free_milli - rooms.cpu / mix.cpu_per_gpu)


def _remaining(rooms: Rooms, scale: Scale) -> Floats:
    return np.asarray(rooms.cpu / scale.cpu_milli + rooms.free_milli / scale.gpu_milli, dtype=np.float64)


def _emptiness(options: Options) -> Floats:
    """So little that it decides only between devices of one host: the share of the device that is free."""
    column = np.maximum(options.device, 0)
    if not options.before.gpus.shape[1]:
        return np.zeros(len(options.row))
    free = options.before.gpus[np.arange(len(options.row)), column]
    return np.where(options.device >= 0, free, 0) / MILLI_PER_GPU * 1e-6


def _chunks(count: int) -> "list[np.ndarray[tuple[int], np.dtype[np.int64]]]":
    return [np.arange(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
