"""YAML whose every value knows where it stands, so that an error can name line and column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from scheduler.simulator.openb import TraceError


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the document. Each method takes it for what is expected.

    Raises:
        TraceError: it is something else.
    """

    path: Path
    node: yaml.Node

    def error(self, message: str) -> TraceError:
        mark = self.node.start_mark
        return TraceError(f"{self.path}, line {mark.line + 1}, column {mark.column + 1}: {message}")

    def mapping(self, *, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, "Entry"]:
        """The values by key; all the required ones, and none that is not known."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"a mapping with {', '.join(required)} is expected")
        found: dict[str, Entry] = {}
        for key, value in self.node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name not in required and name not in optional:
                raise Entry(self.path, key).error(f"one of {', '.join([*required, *optional])} is expected")
            if name in found:
                raise Entry(self.path, key).error(f"{name} is there already")
            found[name] = Entry(self.path, value)
        for name in required:
            if name not in found:
                raise self.error(f"{name} is missing")
        return found

    def items(self) -> list["Entry"]:
        """At least one."""
        if not isinstance(self.node, yaml.SequenceNode) or not self.node.value:
            raise self.error("a list with at least one entry is expected")
        return [Entry(self.path, value) for value in self.node.value]

    def text(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value:
            raise self.error("a name is expected")
        return str(self.node.value)

    def integer(self, low: int, high: int) -> int:
        try:
            number = int(self.text())
        except ValueError:
            raise self.error("a whole number is expected") from None
        if not low <= number <= high:
            raise self.error(f"a number from {low} to {high} is expected, not {number}")
        return number

    def choice(self, choices: Mapping[str, bool]) -> bool:
        if self.text() not in choices:
            raise self.error(f"{' or '.join(choices)} is expected, not {self.text()}")
        return choices[self.text()]


def read_yaml(path: Path) -> Entry:
    """
    Raises:
        TraceError, OSError
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise TraceError(f"{path}, line {line}, column {column}: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise TraceError(f"{path}, line 1, column 1: it is not YAML text: {reason}") from error
    if node is None:
        raise TraceError(f"{path}, line 1, column 1: it is empty")
    return Entry(path, node)
