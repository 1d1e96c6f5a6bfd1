"""Quota arithmetic: what a customer, a workspace or a user may have, and which limit stands against more of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from scheduler.gpu_model import matches

DEFAULT_QUEUED = 100
"""How much of a customer may wait where nobody has said anything: that is always limited."""


class Level(StrEnum):
    """Where a limit is set. All on the path from a customer to a request apply: the tightest stands."""

    CUSTOMER = "customer"
    WORKSPACE = "workspace"
    USER = "user"


class Scope(NamedTuple):
    """Whose limits: a customer, a workspace or a user by its id."""

    level: Level
    id: int


@dataclass(frozen=True, slots=True)
class Resources:
    """GPUs as whole devices, CPU in milli-cores, memory in bytes; how many allocations have them, and how many of those
    are tasks.
    """

    gpus: int
    cpu_milli: int
    memory_bytes: int
    allocations: int = 0
    tasks: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.gpus + other.gpus,
            self.cpu_milli + other.cpu_milli,
            self.memory_bytes + other.memory_bytes,
            self.allocations + other.allocations,
            self.tasks + other.tasks,
        )

    def times(self, factor: int) -> "Resources":
        return Resources(
            factor * self.gpus,
            factor * self.cpu_milli,
            factor * self.memory_bytes,
            factor * self.allocations,
            factor * self.tasks,
        )


NOTHING = Resources(0, 0, 0)
_NONE = (None,) * 6


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that somebody may have; None is no limit.

    Of what is held at once: `gpus`, and `gpu_models` by the words of a model's name, `cpu_milli`, `memory_bytes`,
    `allocations`, and `tasks` among them. Of a single one: `lease_s`, and the `array_elements` of a task. `queued` may
    wait; `environments`, `volumes` and `volume_bytes` may be there. `month_micro` is for what is used in a month.
    """

    gpus: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    allocations: int | None = None
    queued: int | None = None
    tasks: int | None = None
    gpu_models: Mapping[str, int] = field(default_factory=dict)
    lease_s: int | None = None
    environments: int | None = None
    array_elements: int | None = None
    volumes: int | None = None
    volume_bytes: int | None = None
    month_micro: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything limits what may be held at once, or for how long."""
        named = self.gpus, self.cpu_milli, self.memory_bytes, self.allocations, self.tasks, self.lease_s
        return named != _NONE or bool(self.gpu_models)


@dataclass(frozen=True, slots=True)
class Lack:
    """A limit that stands against having `asked` more beside `held`. `model` are the words of a limit by GPU model."""

    resource: str  # the field of Limits
    limit: int
    held: int
    asked: int
    scope: Scope | None = None
    model: str | None = None

    @property
    def sentence(self) -> str:
        """A clause without a capital and a full stop: whose limit, how much is in use, how much was asked for."""
        whose = f"{_WHOSE[self.scope.level]} quota" if self.scope is not None else "the quota"
        if self.resource in _EACH:
            asked = f"{self.asked} were asked for" if self.asked else "it has no limit"
            return f"{whose} is {self.limit} {_EACH[self.resource]}, and {asked}"
        if self.resource == "month_micro":
            used, asked = _amount(self.held), _amount(self.asked)
            return (
                f"{whose} is {_amount(self.limit)} a month, {used} are spent or set aside and {asked} more are needed"
            )
        what = f"{self.model} GPUs" if self.model is not None else _WORDS[self.resource]
        return f"{whose} is {self.limit} {what}, {self.held} are in use and {self.asked} more were asked for"

    @property
    def figures(self) -> dict[str, int]:
        return {f"{self.resource}_limit": self.limit, "in_use": self.held, "wanted": self.asked}


_WHOSE = {Level.CUSTOMER: "the", Level.WORKSPACE: "the workspace's", Level.USER: "the user's"}
_EACH = {"lease_s": "seconds for a lease", "array_elements": "elements for an array"}
_WORDS = {
    "gpus": "GPUs",
    "cpu_milli": "milli-cores of CPU",
    "memory_bytes": "bytes of memory",
    "allocations": "allocations at once",
    "tasks": "tasks at once",
    "queued": "waiting requests",
    "environments": "environments",
    "volumes": "volumes",
    "volume_bytes": "bytes of volumes",
}


def _amount(micro: int) -> str:
    """Rounded up to hundredths."""
    hundredths = -(-micro // 10_000)
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def lack(limits: Limits, *, held: Resources, asked: Resources, scope: Scope | None = None) -> Lack | None:
    """The first limit that stands against holding `asked` beside `held`."""
    for resource, limit, of_held, of_asked in (
        ("gpus", limits.gpus, held.gpus, asked.gpus),
        ("cpu_milli", limits.cpu_milli, held.cpu_milli, asked.cpu_milli),
        ("memory_bytes", limits.memory_bytes, held.memory_bytes, asked.memory_bytes),
        ("allocations", limits.allocations, held.allocations, asked.allocations),
        ("tasks", limits.tasks, held.tasks, asked.tasks),
    ):
        # Who asks for none of it is not kept back by others who have too much, after a limit was lowered.
        if limit is not None and of_asked and of_held + of_asked > limit:
            return Lack(resource, limit, of_held, of_asked, scope)
    return None


def lease_lack(limits: Limits, limit_s: int | None, *, scope: Scope | None = None) -> Lack | None:
    """Whether the lease may last for `limit_s` seconds, None: without an end."""
    if limits.lease_s is None or (limit_s is not None and limit_s <= limits.lease_s):
        return None
    return Lack("lease_s", limits.lease_s, 0, limit_s or 0, scope)


def model_lack(
    limits: Limits,
    model: str,
    *,
    held: Mapping[str, int],
    gpus: int,
    scope: Scope | None = None,
    kept: Mapping[str, int] | None = None,
) -> Lack | None:
    """The first limit by GPU model that stands against `gpus` more of this exact model, beside what is held of each
    exact model, and `kept` of each limit by its words.
    """
    if not gpus:
        return None
    for words, limit in sorted(limits.gpu_models.items()):
        if matches(words, model):
            in_use = of_words(held, words) + (kept or {}).get(words, 0)
            if in_use + gpus > limit:
                return Lack("gpu_models", limit, in_use, gpus, scope, words)
    return None


def of_words(held: Mapping[str, int], words: str) -> int:
    """How many GPUs are held of models that have all of these words."""
    return sum(count for model, count in held.items() if matches(words, model))


def shortage(limits: Limits, *, held: Resources, asked: Resources, scope: Scope | None = None) -> str | None:
    """Which limit stands against holding `asked` beside `held`, in words and figures; None if none does."""
    found = lack(limits, held=held, asked=asked, scope=scope)
    return found.sentence if found else None
