"""What a request needs, without who asks or when: requests of equal demand are placed alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from scheduler.packing.shape import Shape
from scheduler.quota import Resources

Version = tuple[int, ...]
"""A dotted version, compared number by number; empty is below every other."""


class Operator(StrEnum):
    IN = "in"
    NOT_IN = "not_in"
    EXISTS = "exists"
    ABSENT = "absent"
    GREATER = "gt"
    LESS = "lt"


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A condition on one host label. `gt` and `lt` compare integers; a label that is none, or missing, fails them."""

    label: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.label)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.ABSENT:
                return value is None
            case Operator.GREATER | Operator.LESS:
                return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        try:
            have, bound = int(value or ""), int(self.values[0])
        except (ValueError, IndexError):
            return False
        return have > bound if self.operator is Operator.GREATER else have < bound


@dataclass(frozen=True, slots=True)
class Demand:
    """`shape` on each of `nodes` different hosts. All devices are of one model, since an allocation has one price.

    `models` are alternatives as users write them (`scheduler.gpu_model`); none: any. `within` is the topology level
    (a host label, as `rack`) whose value all hosts must share; without it they are packed as closely as possible.
    `apart` names a set of the customer's requests no two of which may share a host. `image` is preferred, not required.
    """

    shape: Shape
    nodes: int = 1
    models: tuple[str, ...] = ()
    gpu_memory_bytes: int = 0
    selectors: tuple[Selector, ...] = ()
    driver: Version = ()
    cuda: Version = ()
    bound_host_id: int | None = None
    apart: str | None = None
    within: str | None = None
    image: str = ""

    @property
    def gpu_milli(self) -> int:
        """Over all hosts, in thousandths of a GPU."""
        return self.nodes * self.shape.gpu_milli

    def counted(self, *, task: bool) -> Resources:
        """What counts against quotas, over all hosts. A share of a GPU counts as one."""
        nodes, shape = self.nodes, self.shape
        return Resources(nodes * shape.gpus, nodes * shape.cpu_milli, nodes * shape.memory_bytes, 1, int(task))

    @property
    def rivals(self) -> tuple[str, ...]:
        """Whose starts say how fast its own queue moves: its models; of requests without GPUs, all the others."""
        return self.models if self.shape.gpus else ("",)
