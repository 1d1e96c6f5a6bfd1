"""What kind of requests come: counted as they arrive, so that placement knows what the next ones may look like."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from scheduler.packing.rooms import Ints
from scheduler.packing.shape import Shape

MAX_SHAPES = 256
"""More kinds of requests than these are not told apart: the rarest are left out."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The shapes that ask for GPUs, one row each, and how many requests have each: exact, so that sums are too.

    Shapes are in the order of `milli`. `sizes` are its different values, `starts` the rows where each begins, and
    `size` the index of each row's. `cpu_per_gpu` is in milli-cores per thousandth of a GPU, over all requests.
    """

    cpu: Ints
    memory: Ints
    gpus: Ints
    sizes: Ints
    starts: Ints
    size: Ints
    requests: Ints
    cpu_per_gpu: float


@dataclass(slots=True)
class Workload:
    """Requests seen so far. `version` rises when `mix` has changed: whenever their number has grown by a half."""

    seen: Counter[Shape] = field(default_factory=Counter)
    version: int = 0
    _total: int = 0
    _next: int = 1
    _mix: Mix | None = None

    def observe(self, shape: Shape) -> None:
        if not shape.gpus:
            return
        self.seen[shape] += 1
        self._total += 1
        if self._total >= self._next:
            self._next = self._total + 1 + self._total // 2
            self.version += 1
            self._mix = None

    @property
    def mix(self) -> Mix:
        """As of the last change of `version`."""
        if self._mix is None:
            self._mix = _mix(self.seen)
        return self._mix


def _mix(seen: Counter[Shape]) -> Mix:
    # Sorted before the cut, so that the same requests in another order are the same mix.
    most = sorted(sorted(seen.items()), key=lambda item: -item[1])[:MAX_SHAPES]
    common = sorted(most, key=lambda item: item[0].milli)
    shapes = [shape for shape, _ in common]
    gpu_milli = sum(shape.gpu_milli * count for shape, count in common)
    cpu_milli = sum(shape.cpu_milli * count for shape, count in common)
    milli = np.array([shape.milli for shape in shapes], dtype=np.int64)
    sizes, starts, size = np.unique(milli, return_index=True, return_inverse=True)
    return Mix(
        cpu=np.array([shape.cpu_milli for shape in shapes], dtype=np.int64),
        memory=np.array([shape.memory_bytes for shape in shapes], dtype=np.int64),
        gpus=np.array([shape.gpus for shape in shapes], dtype=np.int64),
        sizes=sizes,
        starts=starts,
        size=size,
        requests=np.array([count for _, count in common], dtype=np.int64),
        cpu_per_gpu=cpu_milli / gpu_milli if gpu_milli else 0.0,
    )
