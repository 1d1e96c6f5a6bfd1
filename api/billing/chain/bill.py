"""The export of a bill: everything by which a customer can recompute a month's amounts, signed."""

import base64
import json
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from api.billing.chain.canonical import GENESIS, Value
from api.billing.chain.content import Content
from api.billing.chain.heads import closing_head, head_body, is_over, sign_head
from api.billing.chain.keys import ALGORITHM, Signer, public_keys, signer
from api.billing.chain.lines import LineKind, Lines
from api.billing.chain.month import Month
from api.billing.chain.sealing import seal
from api.billing.chain.tables import BillKey, UsageHead
from api.clock import to_ms
from api.db import Database
from api.errors import TooManyRequests
from api.settings import Settings
from api.tenants.tables import Customer

AT_ONCE = 4
CHUNK_BYTES = 1 << 16
LONGEST_S = 1800.0
"""An export that takes longer breaks off: its snapshot keeps the database from tidying up."""

_RECORD = text("select sealed_ms, hash from usage_records where customer_id = :customer and sequence = :sequence")


class TooSlowError(Exception):
    """The reader took longer than LONGEST_S. What they have ends before its signature."""


@dataclass(frozen=True, slots=True)
class Export:
    """What an export is of; everything is read when it is streamed. `keys`: the public halves of all that sign."""

    customer: Customer
    period: Month
    head: UsageHead
    keys: list[BillKey]
    signer: Signer
    exported_ms: int


def prepare(database: Database, settings: Settings, customer_id: int, period: Month, *, now: datetime) -> Export:
    """Seal what there is, and sign the head. A closed period has its head, and nothing is sealed for it."""

    def sealing(session: Session) -> bool:
        if is_over(period, now) and closing_head(session, customer_id, period) is not None:
            return True
        return seal(session, customer_id)

    def signing(session: Session) -> Export:
        head = sign_head(session, settings, customer_id, period, now=now)
        customer = session.get_one(Customer, customer_id)
        keys = list(public_keys(session, settings))
        return Export(customer, period, head, keys, signer(session, settings), to_ms(now))

    while not database.transact(sealing):
        pass
    return database.transact(signing)


def stream(database: Database, export: Export) -> Iterator[bytes]:
    """The file in chunks of lines, from one snapshot of the database.

    Raises:
        TooSlowError: it took more than LONGEST_S, mostly because the reader did.
    """
    ends = time.monotonic() + LONGEST_S
    with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        chunk = bytearray()
        for line in _lines(connection, export):
            chunk += line
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
                if time.monotonic() > ends:
                    raise TooSlowError(f"the bill of {export.period} was not read in {LONGEST_S:.0f} s")
        yield bytes(chunk)


class Exports:
    """The exports that this process streams: few at once, since each keeps a connection and a snapshot, and one of a
    customer's, who may read it as slowly as they like.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: set[int] = set()

    def open(self, database: Database, export: Export) -> Iterator[bytes]:
        """
        Raises:
            TooManyRequests: AT_ONCE are being read, or one of this customer's is.
        """
        with self._lock:
            if len(self._readers) >= AT_ONCE or export.customer.id in self._readers:
                raise TooManyRequests("A bill is being read already; try again.", headers={"Retry-After": "5"})
            self._readers.add(export.customer.id)
        chunks = self._stream(database, export)
        return chain([next(chunks)], chunks)  # begun here, so that it ends in any case

    def _stream(self, database: Database, export: Export) -> Iterator[bytes]:
        try:
            yield from stream(database, export)
        finally:
            with self._lock:
                self._readers.discard(export.customer.id)


def _lines(connection: Connection, export: Export) -> Iterator[bytes]:
    lines = Lines()
    start_ms, end_ms = to_ms(export.period.start), to_ms(export.period.end)
    after = _records_before(connection, export, start_ms)
    values: dict[str, Any] = {
        "customer": export.customer.id,
        "customer_uid": export.customer.uid,
        "currency": export.customer.currency,
        "start": export.period.start,
        "end": export.period.end,
        "after": after,
        "last_record": export.head.sequence,
    }
    content = Content(connection, values, start_ms * 1000, end_ms * 1000)
    content.begin()
    yield lines.line(LineKind.BILL, _bill(connection, export, content))
    yield from _section(lines, LineKind.PRICE_VERSION, content.price_versions())
    meters = ({**rest, "meter": json.loads(body)} for body, rest in content.meters())
    yield from _section(lines, LineKind.METER, meters)
    yield from _section(lines, LineKind.RECORD, content.records())
    yield from _section(lines, LineKind.WINDOW, content.windows())
    yield from _section(lines, LineKind.TRANSACTION, content.transactions())
    yield lines.line(LineKind.TOTALS, content.totals())
    kid = next(key.kid for key in export.keys if key.id == export.head.key_id)
    head = head_body(export.head, customer=str(export.customer.uid), kid=kid)
    yield lines.line(LineKind.HEAD, {"head": head, "signature": _base64(export.head.signature)})
    signature = export.signer.sign_bill(lines.running)
    yield lines.line(LineKind.END, {"key": export.signer.kid, "signature": _base64(signature)})


def _section(lines: Lines, kind: LineKind, bodies: Iterable[Value]) -> Iterator[bytes]:
    return (lines.line(kind, body) for body in bodies)


def _bill(connection: Connection, export: Export, content: Content) -> Value:
    after = content.values["after"]
    values = {"customer": export.customer.id, "sequence": after}
    before = connection.execute(_RECORD, values).one().hash if after else GENESIS
    return {
        "format": "remotegpu-bill",
        "version": 1,
        "customer": str(export.customer.uid),
        "currency": export.customer.currency,
        "period": str(export.period),
        "from_ms": to_ms(export.period.start),
        "to_ms": to_ms(export.period.end),
        "exported_ms": export.exported_ms,
        "closed": export.head.closed,
        "chain": {"sequence": after, "hash": before.hex()},
        "opening": content.opening,
        "keys": [{"algorithm": ALGORITHM, "id": key.kid, "public_key": _base64(key.public_key)} for key in export.keys],
    }


def _records_before(connection: Connection, export: Export, start_ms: int) -> int:
    """How many records of the chain were sealed before the period: their moments only grow."""

    def sealed_ms(sequence: int) -> int:
        values = {"customer": export.customer.id, "sequence": sequence}
        found: int = connection.execute(_RECORD, values).one().sealed_ms
        return found

    return bisect_left(range(1, export.head.sequence + 1), start_ms, key=sealed_ms)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
