"""What is wrong with a task's document, in words and with its place; for an unknown key, with the known one meant."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Keys = Mapping[tuple[str, ...], Sequence[str]]
"""The known keys of each section, by its path; the entries of a list have the list's path."""

_CODED = "Value error, "


def explain(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """The same error with the same places, in words for who wrote the document that should have been a `model`."""
    keys = dict(_sections(model, ()))
    return ValidationError.from_exception_data(
        error.title, [_in_words(each, keys) for each in error.errors(include_url=False)]
    )


def lines(error: ValidationError) -> list[str]:
    """One for each mistake, with its path: `resources.gpu: unknown key; did you mean resources.gpus?`."""
    return [f"{_path(each['loc']) or 'task'}: {each['msg']}" for each in error.errors(include_url=False)]


def _path(loc: Sequence[str | int]) -> str:
    """As people write it: `mounts[0].path`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != "[key]")
    return path.removeprefix(".")


def _in_words(error: ErrorDetails, keys: Keys) -> InitErrorDetails:
    loc = error["loc"][:-1] if error["type"] == "invalid_key" else error["loc"]  # a key that is none names no place
    said = PydanticCustomError(error["type"], "{said}", {"said": _said(error, keys)})
    return InitErrorDetails(type=said, loc=loc, input=error["input"])


def _said(error: ErrorDetails, keys: Keys) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key; {_meant(error['loc'], keys)}"
    if error["type"] == "invalid_key" and isinstance(error["input"], bool):
        return "a key is true or false: YAML 1.1 reads a bare `on`, `yes` or `no` so; write it in quotes"
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        return "a number or boolean is no text; write it in quotes, and with its unit if it has one"
    return error["msg"].removeprefix(_CODED)


def _meant(loc: Sequence[str | int], keys: Keys) -> str:
    *section, key = loc
    siblings = keys[tuple(part for part in section if isinstance(part, str))]
    if near := difflib.get_close_matches(str(key), siblings, n=1):
        return f"did you mean {_path([*section, near[0]])}?"
    if elsewhere := [path for path, known in keys.items() if key in known]:
        return f"did you mean {_path([*elsewhere[0], key])}?"
    return f"known here: {', '.join(siblings)}"


def _sections(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Sequence[str]]]:
    yield path, tuple(model.model_fields)
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _sections(kind, (*path, name))
