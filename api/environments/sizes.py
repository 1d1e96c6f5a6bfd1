"""CPU, memory and disk of an environment that did not say: a fair share of the hosts that it may run on."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.allocations.feasibility import load_offers
from scheduler.gpu_model import matches

MIN_CPU_MILLI = 100
MAX_CPU_MILLI_PER_GPU = 8_000
MIN_MEMORY_BYTES = 2**28
MAX_MEMORY_BYTES_PER_GPU = 64 * 2**30
DISK_BYTES = 20 * 2**30
HOST_RESERVE = 0.1  # of memory: left for the host itself


@dataclass(frozen=True, slots=True)
class Size:
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = DISK_BYTES


def default_size(session: Session, *, gpus: int, gpu_model: str | None) -> Size:
    """The smallest share per GPU among the hosts with such GPUs, so that all GPUs of a host can be rented out."""
    offers = [o for o in load_offers(session) if gpu_model is None or matches(gpu_model, o.model)]
    cpu = min((offer.cpu_milli // offer.gpus for offer in offers), default=0)
    memory = min((int(offer.memory_bytes * (1 - HOST_RESERVE)) // offer.gpus for offer in offers), default=0)
    return Size(
        cpu_milli=gpus * max(MIN_CPU_MILLI, min(cpu, MAX_CPU_MILLI_PER_GPU)),
        memory_bytes=gpus * max(MIN_MEMORY_BYTES, min(memory, MAX_MEMORY_BYTES_PER_GPU)),
    )
