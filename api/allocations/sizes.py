"""CPU, memory and disk of a request that did not say: a fair share of the hosts that it may run on."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.allocations.feasibility import Offer
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.shape import Shape

MIN_CPU_MILLI = 100
MAX_CPU_MILLI_PER_GPU = 8_000
MIN_MEMORY_BYTES = 2**28
MAX_MEMORY_BYTES_PER_GPU = 64 * 2**30
DISK_BYTES = 20 * 2**30
HOST_RESERVE = 0.1  # of memory: left for the host itself
CPU_MILLI_WITHOUT_GPU = 1_000
MEMORY_BYTES_WITHOUT_GPU = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Size:
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = DISK_BYTES


def default_size(offers: Sequence[Offer], *, gpus: int, milli: int = MILLI_PER_GPU) -> Size:
    """The smallest share per GPU among these offers, so that all GPUs of a host can be rented out.

    A part of a GPU gets that part of the share. What takes no GPU has none, and gets little,
    if a host has as much.
    """
    if not gpus:
        cpu = max((offer.cpu_milli for offer in offers), default=CPU_MILLI_WITHOUT_GPU)
        memory = max((offer.memory_bytes for offer in offers), default=MEMORY_BYTES_WITHOUT_GPU)
        return Size(min(cpu, CPU_MILLI_WITHOUT_GPU), min(memory, MEMORY_BYTES_WITHOUT_GPU))
    cpu = min((offer.cpu_milli // offer.gpus for offer in offers), default=0)
    memory = min((int(offer.memory_bytes * (1 - HOST_RESERVE)) // offer.gpus for offer in offers), default=0)
    cpu = max(MIN_CPU_MILLI, min(cpu, MAX_CPU_MILLI_PER_GPU))
    memory = max(MIN_MEMORY_BYTES, min(memory, MAX_MEMORY_BYTES_PER_GPU))
    return Size(
        cpu_milli=max(MIN_CPU_MILLI, gpus * cpu * milli // MILLI_PER_GPU),
        memory_bytes=max(MIN_MEMORY_BYTES, gpus * memory * milli // MILLI_PER_GPU),
    )


def size_within(shape: Shape, *, gpus: int, milli: int = MILLI_PER_GPU) -> Size:
    """The share of what is set aside on a host."""
    return Size(
        cpu_milli=max(1, shape.cpu_milli * gpus * milli // (shape.gpus * MILLI_PER_GPU)),
        memory_bytes=max(1, shape.memory_bytes * gpus * milli // (shape.gpus * MILLI_PER_GPU)),
    )
