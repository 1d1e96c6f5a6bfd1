"""The arrays behind the pools: one row each."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.packing.rooms import Ints, Mask, Rooms

_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(slots=True)
class Table:
    """Devices are columns of `gpus` (free thousandths) and `owner`; `largest` is what there is when all is free.

    `state` is an id of what is free, above zero once that is known: where it is equal, that is the same. `view` rises
    with every other change of the host. `rank` orders pools by host id and model, so that no result depends on which
    row a host came to have.
    """

    cpu: Ints  # free milli-cores
    memory: Ints  # free bytes
    largest_cpu: Ints
    largest_memory: Ints
    count: Ints  # devices
    model: Ints
    rank: Ints
    state: Ints
    view: Ints
    schedulable: Mask
    first: Mask  # of its host's pools
    gpus: Ints
    owner: Ints

    @staticmethod
    def empty() -> "Table":
        none, nothing, nowhere = np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros((0, 0), np.int64)
        return Table(none, none, none, none, none, none, none, none, none, nothing, nothing, nowhere, nowhere)

    def grown(self, height: int, width: int) -> "Table":
        """A copy with more rows and device columns, zeros in the new ones."""
        return Table(
            cpu=_longer(self.cpu, height),
            memory=_longer(self.memory, height),
            largest_cpu=_longer(self.largest_cpu, height),
            largest_memory=_longer(self.largest_memory, height),
            count=_longer(self.count, height),
            model=_longer(self.model, height),
            rank=_longer(self.rank, height),
            state=_longer(self.state, height),
            view=_longer(self.view, height),
            schedulable=_longer(self.schedulable, height),
            first=_longer(self.first, height),
            gpus=_wider(_longer(self.gpus, height), width),
            owner=_wider(_longer(self.owner, height), width),
        )

    @property
    def free(self) -> Rooms:
        return Rooms(self.cpu, self.memory, self.gpus)

    @property
    def height(self) -> int:
        return len(self.cpu)


def _longer(old: NDArray[_Kind], height: int) -> NDArray[_Kind]:
    return np.concatenate([old, np.zeros((height - len(old), *old.shape[1:]), old.dtype)])


def _wider(old: Ints, width: int) -> Ints:
    return np.pad(old, ((0, 0), (0, width - old.shape[1])))
