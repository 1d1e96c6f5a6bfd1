"""Label conditions as people write them, in the manner of Kubernetes: `region=eu`, `nvlink`, `!spot`, `zone in (a,b)`.

    region=eu   region==eu   region!=eu   zone in (a,b)   zone notin (a)   nvlink   !spot   mem>40   mem<80

Several are joined by commas. `!=` and `notin` hold for a host without the label too; `>` and `<` need whole numbers.
"""

import re
from collections.abc import Iterator

from scheduler.demand import Operator, Selector

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_VALUE = re.compile(r"[A-Za-z0-9._/ -]{0,62}")
_SET = re.compile(r"(?P<label>\S+)\s+(?P<operator>in|notin)\b\s*(?P<rest>.*)", re.DOTALL)
_COMPARED = re.compile(r"(?P<label>[^=!<>]*)(?P<operator>==|!=|=|>|<)(?P<value>.*)", re.DOTALL)
_SET_OPERATORS = {"in": Operator.IN, "notin": Operator.NOT_IN}
_OPERATORS = {
    "=": Operator.IN,
    "==": Operator.IN,
    "!=": Operator.NOT_IN,
    ">": Operator.GREATER,
    "<": Operator.LESS,
}


class SelectorError(ValueError):
    """Says which part of a selector can't be understood, and what is expected there."""


def parse(text: str) -> tuple[Selector, ...]:
    """The conditions of a text, in its order.

    Raises:
        SelectorError: a part is none, or there are no parts.
    """
    return tuple(_condition(part.strip()) for part in _parts(text))


def write(selector: Selector) -> str:
    """The same condition as a text, in one way of several."""
    label, values = selector.label, selector.values
    match selector.operator:
        case Operator.IN if len(values) == 1:
            return f"{label}={values[0]}"
        case Operator.NOT_IN if len(values) == 1:
            return f"{label}!={values[0]}"
        case Operator.IN:
            return f"{label} in ({','.join(values)})"
        case Operator.NOT_IN:
            return f"{label} notin ({','.join(values)})"
        case Operator.EXISTS:
            return label
        case Operator.ABSENT:
            return f"!{label}"
        case Operator.GREATER:
            return f"{label}>{values[0]}"
        case Operator.LESS:
            return f"{label}<{values[0]}"


def _parts(text: str) -> Iterator[str]:
    """Split at the commas outside of parentheses."""
    begin = depth = 0
    for place, character in enumerate(text):
        if character == "," and depth == 0:
            yield text[begin:place]
            begin = place + 1
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth not in (0, 1):
            raise SelectorError(f"{text!r}: its parentheses are not in pairs")
    if depth:
        raise SelectorError(f"{text!r}: its parentheses are not in pairs")
    yield text[begin:]


def _condition(part: str) -> Selector:
    if part.startswith("!") and not part.startswith("!="):
        return Selector(_label(part[1:].strip(), part), Operator.ABSENT)
    if found := _SET.fullmatch(part):
        return Selector(
            _label(found["label"], part), _SET_OPERATORS[found["operator"]], _values(found["rest"], found, part)
        )
    if found := _COMPARED.fullmatch(part):
        label, operator = _label(found["label"].strip(), part), _OPERATORS[found["operator"]]
        value = found["value"].strip()
        if operator in (Operator.GREATER, Operator.LESS):
            return Selector(label, operator, (_number(value, part),))
        return Selector(label, operator, (_value(value, part),))
    return Selector(_label(part, part), Operator.EXISTS)


def _label(name: str, part: str) -> str:
    if not _LABEL.fullmatch(name):
        raise SelectorError(
            f"{part!r}: {name!r} is no label; one has at most 63 letters, digits, dots, hyphens, underscores or slashes"
        )
    return name


def _value(value: str, part: str) -> str:
    if not _VALUE.fullmatch(value):
        raise SelectorError(f"{part!r}: {value!r} can't be the value of a label")
    return value


def _values(listed: str, found: re.Match[str], part: str) -> tuple[str, ...]:
    if not (listed.startswith("(") and listed.endswith(")") and listed.strip("() ,")):
        example = f"{found['label']} {found['operator']} (a,b)"
        raise SelectorError(f"{part!r}: {listed!r} is no list of values in parentheses, as in {example!r}")
    return tuple(_value(value.strip(), part) for value in listed[1:-1].split(","))


def _number(value: str, part: str) -> str:
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise SelectorError(f"{part!r}: {value!r} is no whole number")
    return value
