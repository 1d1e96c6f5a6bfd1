"""What is free on one host, device by device."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoomDevice:
    """`owner` is the customer who has a part of it, or `pools.NOBODY` or `pools.SEVERAL`."""

    gpu_id: int
    free_milli: int
    owner: int


@dataclass(frozen=True, slots=True)
class Room:
    """The devices of one model on a host, in order, and the host's CPU and memory."""

    host_id: int
    model: str
    cpu_milli: int
    memory_bytes: int
    devices: tuple[RoomDevice, ...]
