"""Tasks as files have them: YAML 1.2, several documents in a file, and the line of each key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from remotegpu.errors import RemoteGpuError

MAX_BYTES = 2**20
_MAX_NODES = 100_000  # what aliases stand for counts too
_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = {"0o": 8, "0x": 16}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}

Steps = tuple[str | int, ...]
"""Keys and indices that lead to a part of a document."""


class BadDocument(RemoteGpuError):
    """A file is no YAML, or no task; the message begins with the file and the line."""


@dataclass(frozen=True, slots=True)
class Document:
    """A task as JSON. `folder` is what its paths are relative to; `lines` has the line of each part, from 1."""

    task: dict[str, Any]  # Any: JSON
    folder: Path
    source: str
    lines: Mapping[Steps, int] = field(default_factory=dict)

    def place(self, loc: Sequence[str]) -> str:
        """Where the part at `loc`, or what is nearest above it, is: `train.yaml:7`."""
        steps: Steps = ()
        for step in loc:
            known = next((key for key in (step, _index(step)) if key is not None and (*steps, key) in self.lines), None)
            if known is None:
                break
            steps = (*steps, known)
        line = self.lines.get(steps)
        return f"{self.source}:{line}" if line is not None else self.source


def read_documents(file: Path) -> list[Document]:
    """The tasks in a file.

    Raises:
        BadDocument: it can't be read, is no YAML 1.2, or has something else than tasks.
    """
    try:
        content = file.read_bytes()[: MAX_BYTES + 1]
        if len(content) > MAX_BYTES:
            raise BadDocument(f"{file}: more than {MAX_BYTES} bytes are no task.")
        return parse(content.decode("utf-8-sig"), source=str(file), folder=file.parent)
    except OSError as error:
        raise BadDocument(f"{file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadDocument(f"{file}: it is no UTF-8 text.") from error


def parse(text: str, *, source: str, folder: Path) -> list[Document]:
    """The tasks in a text; `source` names it.

    Raises:
        BadDocument: see `read_documents`.
    """
    try:
        nodes = [node for node in YAML(typ="rt", pure=True).compose_all(text) if not _is_empty(node)]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise BadDocument(f"{source}{line}: {error.problem or error.context}.") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise BadDocument(f"{source}: it is no YAML ({str(error).splitlines()[0]}).") from error
    if not nodes:
        raise BadDocument(f"{source}: there is no task in it.")
    return [_document(node, source, folder) for node in nodes]


def _document(node: Node, source: str, folder: Path) -> Document:
    reading = _Reading(source)
    task = reading.value(node, ())
    if not isinstance(task, dict):
        raise BadDocument(f"{source}:{node.start_mark.line + 1}: a task is a mapping of keys, such as `command: ...`.")
    return Document(task, folder, source, reading.lines)


def _is_empty(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == f"{_TAG}null" and not node.value


class _Reading:
    """One document's values, with the lines that they were found in."""

    def __init__(self, source: str) -> None:
        self.lines: dict[Steps, int] = {}
        self._source = source
        self._open: list[Node] = []
        self._count = 0

    def value(self, node: Node, path: Steps) -> Any:  # Any: JSON
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count += 1
        if self._count > _MAX_NODES:
            raise self._bad(node, "its aliases stand for too much")
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if node in self._open:
            raise self._bad(node, "an alias stands for what it is in")
        self._kind(node)
        self._open.append(node)
        found: Any = None
        if isinstance(node, MappingNode):
            found = self._mapping(node, path)
        elif isinstance(node, SequenceNode):
            found = self._sequence(node, path)
        self._open.pop()
        return found

    def _mapping(self, node: MappingNode, path: Steps) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise self._bad(key, "a key has to be a text")
            name = key.value
            if name in found:
                before = self.lines[(*path, name)]
                raise self._bad(key, f"the key {name!r} is there already, in line {before}")
            self.lines[(*path, name)] = key.start_mark.line + 1
            found[name] = self.value(value, (*path, name))
        return found

    def _sequence(self, node: SequenceNode, path: Steps) -> list[Any]:
        return [self.value(each, (*path, place)) for place, each in enumerate(node.value)]

    def _scalar(self, node: ScalarNode) -> Any:
        kind, text = self._kind(node), str(node.value)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if kind in ("int", "float"):
            return self._number(node, text)
        return text

    def _number(self, node: ScalarNode, text: str) -> int | float | str:
        if _INT.fullmatch(text) and len(text) < 20:
            return int(text)
        if (base := _BASED.get(text[:2])) is not None:
            return int(text[2:], base)
        if not _FLOAT.fullmatch(text):
            if text.lower().lstrip("+-") in (".inf", ".nan"):
                raise self._bad(node, f"{text} is no number that a task takes")
            return text  # as 1_000, which is a number in YAML 1.1
        number = float(text)
        if math.isinf(number):
            raise self._bad(node, f"{text} is too large a number")
        return number

    def _kind(self, node: Node) -> str:
        tag = str(node.tag)
        if not tag.startswith(_TAG):
            raise self._bad(node, f"the tag {tag} has no meaning here")
        return tag.removeprefix(_TAG)

    def _bad(self, node: Node, said: str) -> BadDocument:
        return BadDocument(f"{self._source}:{node.start_mark.line + 1}: {said}.")


def _index(step: str) -> int | None:
    return int(step) if step.isdigit() else None
