"""Ray's label selectors as the scheduler's: `{"zone": "in(a, b)", "spot": "!true"}`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from api.ray_jobs.request import Refused
from scheduler.demand import Operator, Selector
from scheduler.selectors import SelectorError, parse, write

ACCELERATOR = "ray.io/accelerator-type"
_RAYS_OWN = "ray.io/"
_VALUE = re.compile(r"(?P<negated>!?)(?:in\((?P<listed>[^()!]*)\)|(?P<single>[^()!,]*))")


@dataclass(frozen=True, slots=True)
class LabelConditions:
    """`selectors` as texts that `scheduler.selectors.parse` reads; `models` alternatives, empty: any."""

    selectors: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def read(given: Mapping[str, str]) -> LabelConditions:
    """The conditions of a label selector, in the order of their labels.

    Raises:
        Refused: one can't be understood, or speaks of a label that only Ray's own nodes have.
    """
    selectors: list[str] = []
    models: tuple[str, ...] = ()
    for label, value in sorted(given.items()):
        negated, values = _values(label, value)
        if label == ACCELERATOR and not negated and all(values):
            models = values
        elif label.startswith(_RAYS_OWN):
            raise Refused(f"entrypoint_label_selector: {label}={value!r}: only {ACCELERATOR} names a model here")
        else:
            selectors.append(_selector(label, negated, values))
    return LabelConditions(tuple(selectors), models)


def _values(label: str, text: str) -> tuple[bool, tuple[str, ...]]:
    found = _VALUE.fullmatch(text.strip())
    if found is None:
        raise Refused(
            f"entrypoint_label_selector: {label}: {text!r} is no condition;"
            " write a value, !value, in(a, b) or !in(a, b)"
        )
    listed = found["single"] if found["listed"] is None else found["listed"]
    return bool(found["negated"]), tuple(value.strip() for value in listed.split(","))


def _selector(label: str, negated: bool, values: tuple[str, ...]) -> str:
    text = write(Selector(label, Operator.NOT_IN if negated else Operator.IN, values))
    try:
        parse(text)
    except SelectorError as error:
        raise Refused(f"entrypoint_label_selector: {error}") from error
    return text
