"""The verification of a bill, line by line, with integers alone. It asks nobody: there are the file and the keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from remotegpu.bill.bodies import (
    Bill,
    End,
    HeadLine,
    Key,
    MeterLine,
    PriceVersion,
    RecordLine,
    Totals,
    Transaction,
    Window,
    read,
)
from remotegpu.bill.carried import Carried
from remotegpu.bill.journal import Boundary, Journal
from remotegpu.bill.lines import ZERO, BadLine, Line, canonical, read_lines
from remotegpu.bill.meters import Chain, Meters, Place, unsealed_ms
from remotegpu.bill.proof import Windows
from remotegpu.bill.signatures import Keys, decode, holds, key_id

_HEAD, _BILL = b"remotegpu head 1\n", b"remotegpu bill 1\n"
_ORDER = ("bill", "price_version", "meter", "record", "window", "transaction", "totals", "head", "end")
_ONCE = ("bill", "totals", "head", "end")


@dataclass(frozen=True)
class Verified:
    """What a bill that holds says. `key` signed it; `unsealed_ms` is time that was paid for and is not sealed yet."""

    customer: str
    period: str
    closed: bool
    currency: str
    amount_micro: int
    duration_ms: int
    unsealed_ms: int
    lines: int
    records: int
    windows: int
    transactions: int
    sequence: int
    hash: str
    key: str


@dataclass
class Verifier:
    """Recomputes everything in bills: in one, or in those of several months in their order, which have to agree.

    Args:
        keys: the platform's public keys. Without any, a file's own are believed: that shows that it fits together, and
            not whose it is.
    """

    keys: Keys | None = None
    _carried: Carried | None = None

    def verify(self, file: BinaryIO) -> Verified:
        """
        Raises:
            BadLine: the first line that does not hold.
        """
        lines = _ordered(read_lines(file))
        first = next(lines)
        check = _Check(first, read(first, Bill), self.keys, self._carried)
        line = first
        for line in lines:
            check.take(line)
        self._carried = check.carried()
        return check.result(line.number)


def _ordered(lines: Iterator[Line]) -> Iterator[Line]:
    """Lines whose kinds come in the order in which they have to, up to the end that has to come.

    Raises:
        BadLine
    """
    at, number = -1, 0
    for line in lines:
        number = line.number
        if line.kind not in _ORDER:
            raise BadLine(number, f"there are no {line.kind[:20]} lines")
        place = _ORDER.index(line.kind)
        if place < at or (place == at and line.kind in _ONCE):
            raise BadLine(number, f"a {line.kind} line does not belong after a {_ORDER[at]} line")
        if missing := [kind for kind in _ORDER[at + 1 : place] if kind in _ONCE]:
            raise BadLine(number, f"a {missing[0]} line should come before it")
        at = place
        yield line
    if at != len(_ORDER) - 1:
        raise BadLine(number + 1, "the file ends before its end line")


class _Check:
    """The lines of one file after the first."""

    def __init__(self, line: Line, bill: Bill, keys: Keys | None, before: Carried | None) -> None:
        own = _own_keys(line, bill)
        self._keys = own if keys is None else keys
        if bill.chain.sequence == 0 and bill.chain.hash != ZERO:
            raise BadLine(line.number, "there is a hash before the first record of all")
        if bill.from_ms >= bill.to_ms:
            raise BadLine(line.number, "the period has no length")
        self._bill = bill
        self._meters = Meters(bill)
        self._before = before
        if before is not None:
            before.check_bill(line.number, bill)
        spans, known = ({}, None) if before is None else (before.spans, before.head)
        self._chain = Chain(bill, self._meters, spans, bill.chain, known)
        self._windows: Windows | None = None
        self._journal = Journal(bill, self._meters, dict(bill.opening))
        self._last = line
        self._key = ""

    def take(self, line: Line) -> None:
        if _ORDER.index(line.kind) > _ORDER.index("window") >= _ORDER.index(self._last.kind):
            self._proof().finish(line.number)
        match line.kind:
            case "price_version":
                self._meters.take_price(line.number, read(line, PriceVersion))
            case "meter":
                self._take_meter(line, read(line, MeterLine))
            case "record":
                self._chain.take(line, read(line, RecordLine))
            case "window":
                self._proof().take(line.number, read(line, Window))
            case "transaction":
                self._journal.take(line.number, read(line, Transaction))
            case "totals":
                self._journal.close(line.number, read(line, Totals))
            case "head":
                self._take_head(line, read(line, HeadLine))
            case _:
                self._take_end(line, read(line, End))
        self._last = line

    def _take_meter(self, line: Line, found: MeterLine) -> None:
        self._meters.take(line, found)
        if self._before is not None:
            self._before.check_meter(line.number, found)

    def _proof(self) -> Windows:
        if self._windows is None:
            self._windows = Windows(self._chain.fresh, self._meters.milli)
        return self._windows

    def _take_head(self, line: Line, found: HeadLine) -> None:
        head, bill = found.head, self._bill
        if (head.customer, head.period, head.closed) != (bill.customer, bill.period, bill.closed):
            raise BadLine(line.number, "the head is of another bill")
        if (head.sequence, head.hash) != (self._chain.position.sequence, self._chain.position.hash):
            raise BadLine(line.number, "the head is not the hash of the last record")
        if self._before is not None and head.sequence < self._before.head.sequence:
            raise BadLine(line.number, "the head covers less than that of the bill before")
        if head.signed_ms < self._chain.sealed_ms:
            raise BadLine(line.number, "the head was signed before its last record was sealed")
        message = _HEAD + canonical(line.body["head"])
        if not holds(self._keys, head.key, found.signature, message):
            raise BadLine(line.number, "the head's signature is not the platform's")

    def _take_end(self, line: Line, found: End) -> None:
        if not holds(self._keys, found.key, found.signature, _BILL + self._last.running.encode()):
            raise BadLine(line.number, "the file's signature is not the platform's")
        self._key = found.key

    def carried(self) -> Carried:
        """For the next file."""
        chain = self._chain.boundary or self._chain.mark()
        journal = self._journal.boundary or self._journal.mark()
        before = self._before
        if before is not None:
            chain = Place(chain.position, {**before.chain.sealed_ms, **chain.sealed_ms})
            journal = Boundary(journal.balances, {**before.journal.posted_ms, **journal.posted_ms})
        whole = self._bill.chain.sequence == 0 if before is None else before.whole
        return Carried(self._bill, self._chain.position, chain, journal, self._chain.spans, whole)

    def result(self, lines: int) -> Verified:
        return Verified(
            customer=self._bill.customer,
            period=self._bill.period,
            closed=self._bill.closed,
            currency=self._bill.currency,
            amount_micro=self._journal.amount_micro,
            duration_ms=self._journal.duration_ms,
            unsealed_ms=unsealed_ms(self._meters.counts),
            lines=lines,
            records=self._chain.records,
            windows=self._proof().taken,
            transactions=self._journal.transactions,
            sequence=self._chain.position.sequence,
            hash=self._chain.position.hash,
            key=self._key,
        )


def _own_keys(line: Line, bill: Bill) -> dict[str, bytes]:
    return {key.id: _raw(line, key) for key in bill.keys}


def _raw(line: Line, key: Key) -> bytes:
    raw = decode(key.public_key)
    if raw is None or len(raw) != 32 or key_id(raw) != key.id:
        raise BadLine(line.number, "a key's id is not the hash of the key")
    return raw
