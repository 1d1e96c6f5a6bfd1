"""The one form in which something is hashed and signed (docs/reference/bill-format.md): JSON with nothing left open."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = "str | int | bool | Sequence[Value] | Mapping[str, Value] | None"

GENESIS = bytes(32)
"""What stands for the hash before the first one."""


def canonical(value: Value) -> bytes:
    """Sorted names, no spaces, whole numbers, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Value) -> bytes:
    """SHA-256 of the canonical form, 32 bytes."""
    return hashlib.sha256(canonical(value)).digest()
