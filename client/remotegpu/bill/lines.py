"""The lines of a bill: canonical JSON, numbered, each with a hash that runs on from the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from remotegpu.errors import RemoteGpuError

ZERO = "0" * 64
"""What stands for the hash before the first one."""
MAX_LINE_BYTES = 1 << 24

Json = Any  # what the json module reads: no floats


class BadLine(RemoteGpuError):
    """The first line of a file that does not hold, counted from 1, and why."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number
        self.why = why


@dataclass(frozen=True)
class Line:
    number: int
    kind: str
    body: Json
    running: str  # the hash of this line and all before it


def canonical(value: Json) -> bytes:
    """The one way to write a value."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.encode("utf-8")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Every line, in whose form and hash there is no mistake.

    Raises:
        BadLine
    """
    number, running = 0, ZERO
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        line = _parse(number, raw)
        content = canonical({"body": line.body, "kind": line.kind, "line": line.number})
        if line.number != number:
            raise BadLine(number, f"it says that it is line {line.number}")
        running = sha256(bytes.fromhex(running) + content)
        if line.running != running:
            raise BadLine(number, "its hash does not follow from it and the line before")
        yield line


def _parse(number: int, raw: bytes) -> Line:
    if not raw.endswith(b"\n"):
        raise BadLine(number, "it is cut off" if len(raw) <= MAX_LINE_BYTES else "it is too long")
    try:
        value = json.loads(raw.decode("utf-8"), parse_float=_refuse, parse_constant=_refuse)
        again = canonical(value)
    except (ValueError, RecursionError) as error:
        raise BadLine(number, "it is not JSON with whole numbers") from error
    if again + b"\n" != raw:
        raise BadLine(number, "it is not in canonical form")
    if not isinstance(value, dict) or value.keys() != {"body", "kind", "line", "running"}:
        raise BadLine(number, "it is not an object of body, kind, line and running")
    if not isinstance(value["kind"], str) or type(value["line"]) is not int or not isinstance(value["running"], str):
        raise BadLine(number, "its kind, number or hash is none")
    return Line(value["line"], value["kind"], value["body"], value["running"])


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no whole number")
