"""Quota arithmetic: what a customer may hold at once, and how much may wait."""

from dataclasses import dataclass

DEFAULT_QUEUED = 100


@dataclass(frozen=True, slots=True)
class Resources:
    """GPUs as whole devices, CPU in milli-cores, memory in bytes; and how many allocations have them."""

    gpus: int
    cpu_milli: int
    memory_bytes: int
    allocations: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.gpus + other.gpus,
            self.cpu_milli + other.cpu_milli,
            self.memory_bytes + other.memory_bytes,
            self.allocations + other.allocations,
        )

    def times(self, factor: int) -> "Resources":
        return Resources(
            factor * self.gpus, factor * self.cpu_milli, factor * self.memory_bytes, factor * self.allocations
        )


NOTHING = Resources(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be held at once (None: no limit), and how many requests may wait, which is always limited."""

    gpus: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    allocations: int | None = None
    queued: int = DEFAULT_QUEUED

    @property
    def any(self) -> bool:
        """Whether anything limits what may be held at once."""
        return (self.gpus, self.cpu_milli, self.memory_bytes, self.allocations) != (None, None, None, None)


@dataclass(frozen=True, slots=True)
class Lack:
    """A limit that stands against holding `asked` more beside `held`."""

    resource: str  # the field of Limits
    limit: int
    held: int
    asked: int

    @property
    def sentence(self) -> str:
        what = _WORDS[self.resource]
        return f"the quota is {self.limit} {what}, {self.held} are in use and {self.asked} more were asked for"


_WORDS = {
    "gpus": "GPUs",
    "cpu_milli": "milli-cores of CPU",
    "memory_bytes": "bytes of memory",
    "allocations": "allocations at once",
}


def lack(limits: Limits, *, held: Resources, asked: Resources) -> Lack | None:
    """The first limit that stands against holding `asked` beside `held`."""
    for resource, limit, of_held, of_asked in (
        ("gpus", limits.gpus, held.gpus, asked.gpus),
        ("cpu_milli", limits.cpu_milli, held.cpu_milli, asked.cpu_milli),
        ("memory_bytes", limits.memory_bytes, held.memory_bytes, asked.memory_bytes),
        ("allocations", limits.allocations, held.allocations, asked.allocations),
    ):
        if limit is not None and of_held + of_asked > limit:
            return Lack(resource, limit, of_held, of_asked)
    return None


def shortage(limits: Limits, *, held: Resources, asked: Resources) -> str | None:
    """Which limit stands against holding `asked` beside `held`, in words and figures; None if none does."""
    found = lack(limits, held=held, asked=asked)
    return found.sentence if found else None
