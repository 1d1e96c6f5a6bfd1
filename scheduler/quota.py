"""Quota arithmetic: what a customer may hold at once, and how much may wait."""

from dataclasses import dataclass

DEFAULT_QUEUED = 100


@dataclass(frozen=True, slots=True)
class Resources:
    """GPUs as whole devices, CPU in milli-cores, memory in bytes."""

    gpus: int
    cpu_milli: int
    memory_bytes: int

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.gpus + other.gpus, self.cpu_milli + other.cpu_milli, self.memory_bytes + other.memory_bytes
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be held at once (None: no limit), and how many requests may wait, which is always limited."""

    gpus: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    queued: int = DEFAULT_QUEUED


def shortage(limits: Limits, *, held: Resources, asked: Resources) -> str | None:
    """Which limit stands against holding `asked` beside `held`, in words and figures; None if none does."""
    total = held + asked
    for name, limit, of_total, of_held in (
        ("GPUs", limits.gpus, total.gpus, held.gpus),
        ("milli-cores of CPU", limits.cpu_milli, total.cpu_milli, held.cpu_milli),
        ("bytes of memory", limits.memory_bytes, total.memory_bytes, held.memory_bytes),
    ):
        if limit is not None and of_total > limit:
            return f"the quota is {limit} {name}, {of_held} are in use and {of_total - of_held} more were asked for"
    return None
