"""What is free on one host, device by device."""

from dataclasses import dataclass

from scheduler.cluster.pools import Pool, Taken
from scheduler.money import MILLI_PER_GPU


@dataclass(frozen=True, slots=True)
class RoomDevice:
    """`owner` is the customer who has a part of it, or `pools.NOBODY` or `pools.SEVERAL`."""

    gpu_id: int
    free_milli: int
    owner: int


@dataclass(frozen=True, slots=True)
class Room:
    """The devices of one model on a host, in order, and the host's CPU and memory.

    Where more is claimed than there is, less than nothing is free: what is set aside may be held by others, and it is
    not free when they have gone.
    """

    host_id: int
    model: str
    cpu_milli: int
    memory_bytes: int
    devices: tuple[RoomDevice, ...]

    @staticmethod
    def of(pool: Pool, taken: Taken) -> "Room":
        shares = [(device.gpu_id, *taken.of(device.gpu_id)) for device in pool.devices]
        return Room(
            pool.host.host_id,
            pool.model,
            pool.host.cpu_milli - taken.cpu_milli,
            pool.host.memory_bytes - taken.memory_bytes,
            tuple(RoomDevice(gpu_id, MILLI_PER_GPU - milli, owner) for gpu_id, milli, owner in shares),
        )
