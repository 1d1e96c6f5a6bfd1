"""The scheduler's values as JSON and back: exactly, and the same text for the same value.

Fields that have their default are left out. Sets are sorted, moments are ISO 8601 in full, and floats are read back to
the bit.
"""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Json = Any  # as `json` reads and writes it
Value = TypeVar("Value")

_PLAIN = (bool, int, float, str)


def encode(value: object) -> Json:
    """
    Raises:
        TypeError: it, or something in it, is no value of the scheduler's.
    """
    if value is None or (isinstance(value, _PLAIN) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(encode(key)): encode(each) for key, each in value.items()}
    if isinstance(value, Set):
        return sorted(encode(each) for each in value)
    if isinstance(value, Sequence):
        return [encode(each) for each in value]
    if dataclasses.is_dataclass(value):
        return _fields_of(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _fields_of(value: Any) -> Json:  # Any: a dataclass
    found = {}
    kind: Any = type(value)
    for name, default in _defaults(kind):
        each = getattr(value, name)
        if each != default and not (default == () and not each):  # an empty list stands for an empty tuple
            found[name] = encode(each)
    return found


@cache
def _defaults(kind: type) -> tuple[tuple[str, object], ...]:
    """The fields with their defaults; one that equals nothing where there is none."""
    return tuple((field.name, _default(field)) for field in dataclasses.fields(kind))


def _default(field: Any) -> object:  # Any: a dataclass's field of any type
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return object() if field.default is dataclasses.MISSING else field.default


def decode(kind: type[Value], document: Json) -> Value:
    """What `encode` has made of a value of that type.

    Raises:
        ValueError: it is something else.
    """
    try:
        found: Value = _decoded(kind, document)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no {getattr(kind, '__name__', kind)}: {error}") from error
    return found


def _decoded(kind: Any, document: Json) -> Any:  # Any: a type, and a value of it
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _of_union(get_args(kind), document)
    if origin is not None:
        return _of_many(origin, get_args(kind), document)
    if dataclasses.is_dataclass(kind):
        made: Any = kind
        hints = _hints(made)
        return made(**{name: _decoded(hints[name], each) for name, each in document.items()})
    if kind is datetime:
        return datetime.fromisoformat(document)
    if kind is float and isinstance(document, int):
        return float(document)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(document)
    if not isinstance(document, kind):
        raise TypeError(f"{kind.__name__} is expected, not {document!r}")
    return document


def _of_union(kinds: tuple[Any, ...], document: Json) -> Any:  # Any: as above
    if document is None:
        return None
    (kind,) = (each for each in kinds if each is not NoneType)
    return _decoded(kind, document)


def _of_many(origin: Any, kinds: tuple[Any, ...], document: Json) -> Any:  # Any: as above
    if issubclass(origin, Mapping):
        key, value = kinds
        return {key(name): _decoded(value, each) for name, each in document.items()}
    if origin is tuple and kinds[-1] is not Ellipsis:
        return tuple(_decoded(kind, each) for kind, each in zip(kinds, document, strict=True))
    many = (_decoded(kinds[0], each) for each in document)
    return frozenset(many) if issubclass(origin, Set) else tuple(many)


@cache
def _hints(kind: type) -> dict[str, Any]:  # Any: types
    return get_type_hints(kind)
