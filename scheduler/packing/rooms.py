"""What is free on a batch of hosts, as arrays: the value that scoring policies look at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.money import MILLI_PER_GPU
from scheduler.packing.shape import Shape

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

NO_DEVICE = -1


@dataclass(frozen=True, slots=True)
class Rooms:
    """`cpu` (milli-cores) and `memory` (bytes) have a row per host, `gpus` (free thousandths) a column per device too.

    A host with fewer devices than there are columns has zeros in the rest: nothing fits there.
    """

    cpu: Ints
    memory: Ints
    gpus: Ints

    def take(self, rows: Ints) -> "Rooms":
        """A copy of these rows; a row may come several times."""
        return Rooms(self.cpu[rows], self.memory[rows], self.gpus[rows])

    @property
    def free_milli(self) -> Ints:
        """Free thousandths of GPUs per host."""
        return np.asarray(self.gpus.sum(axis=1), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Options:
    """The ways in which one shape could be placed: for each, the row of its host, the device, and what would be left.

    `device` is the column of the device that is shared; -1 where whole devices, or none, are taken.
    """

    row: Ints
    device: Ints
    before: Rooms
    after: Rooms


def fits(rooms: Rooms, shape: Shape) -> Mask:
    """The hosts that could take the shape now."""
    enough = (rooms.gpus >= shape.milli).sum(axis=1) >= shape.gpus
    result: Mask = (rooms.cpu >= shape.cpu_milli) & (rooms.memory >= shape.memory_bytes) & enough
    return result


def options(rooms: Rooms, shape: Shape, usable: Mask | None = None) -> Options:
    """Every way to place the shape: one per host that it fits, or one per device that it could share.

    `usable` restricts the devices that may be shared: a row per host, a column per device.
    """
    fitting = np.flatnonzero(fits(rooms, shape))
    if shape.gpus and shape.milli < MILLI_PER_GPU:
        enough = rooms.gpus[fitting] >= shape.milli
        which, device = np.nonzero(enough if usable is None else enough & usable[fitting])
        row = fitting[which]
    else:
        row, device = fitting, np.full(len(fitting), NO_DEVICE, dtype=np.int64)
    before = rooms.take(row)
    gpus = before.gpus.copy()
    if shape.gpus and shape.milli < MILLI_PER_GPU:
        gpus[np.arange(len(row)), device] -= shape.milli
    elif shape.gpus:
        free = gpus == MILLI_PER_GPU
        gpus[free & (free.cumsum(axis=1) <= shape.gpus)] = 0
    after = Rooms(before.cpu - shape.cpu_milli, before.memory - shape.memory_bytes, gpus)
    return Options(row, device, before, after)
