"""What a benchmark reports: a figure beside its bound."""

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value, the median of `samples`. `at_most` tells whether `bound` is an upper or a lower one."""

    name: str
    value: float
    unit: str
    bound: float
    at_most: bool
    samples: dict[str, list[float]]

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def report(figures: Sequence[Figure]) -> None:
    """JSON on standard output, a table on standard error."""
    machine = f"{platform.node()}, {platform.machine()}, Linux {platform.release()}"
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        relation = "<=" if figure.at_most else ">="
        verdict = "met" if figure.met else "MISSED"
        sys.stderr.write(
            f"{figure.name:<{width}}  {figure.value:8.3f} {figure.unit:<6} {relation} {figure.bound:g}  {verdict}\n"
        )
