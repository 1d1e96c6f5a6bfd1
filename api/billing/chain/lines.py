"""The lines of a bill: each carries a hash that runs on from the one before, so that none can be changed alone."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from api.billing.chain.canonical import GENESIS, Value, canonical


class LineKind(StrEnum):
    """In the order in which they come."""

    BILL = "bill"
    PRICE_VERSION = "price_version"
    METER = "meter"
    RECORD = "record"
    WINDOW = "window"
    TRANSACTION = "transaction"
    TOTALS = "totals"
    HEAD = "head"
    END = "end"


@dataclass(slots=True)
class Lines:
    """Numbers lines and hashes on. `running` is the hash of the last one."""

    running: bytes = GENESIS
    written: int = field(default=0)

    def line(self, kind: LineKind, body: Value) -> bytes:
        self.written += 1
        content = {"body": body, "kind": str(kind), "line": self.written}
        self.running = hashlib.sha256(self.running + canonical(content)).digest()
        return canonical(content | {"running": self.running.hex()}) + b"\n"
