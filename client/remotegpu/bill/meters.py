"""The meters of a bill, their prices, and the chain of records of what they have proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from remotegpu.bill.bodies import Bill, Group, Meter, MeterLine, Position, PriceVersion, Record, RecordLine
from remotegpu.bill.charges import discounted
from remotegpu.bill.lines import BadLine, Line, canonical, sha256
from remotegpu.bill.spans import Spans


@dataclass
class Count:
    """A meter, and how much of its time is sealed and paid for as of the line that was read last."""

    meter: Meter
    sealed_ms: int
    posted_ms: int


@dataclass
class Meters:
    """Price versions and meters, each once and in order."""

    bill: Bill
    prices: dict[str, PriceVersion] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    milli: dict[Group, int] = field(default_factory=dict)
    _last: str = ""

    def take_price(self, number: int, price: PriceVersion) -> None:
        if self.prices and price.id <= self._last:
            raise BadLine(number, "the price version does not belong after the one before")
        self._last = price.id
        self.prices[price.id] = price

    def take(self, line: Line, found: MeterLine) -> None:
        meter = found.meter
        if found.id != sha256(canonical(line.body["meter"])):
            raise BadLine(line.number, "the meter's id is not the hash of what it is")
        if self.counts and found.id <= self._last:
            raise BadLine(line.number, "the meter does not belong after the one before")
        if meter.customer != self.bill.customer or meter.currency != self.bill.currency:
            raise BadLine(line.number, "the meter is another customer's, or of another currency")
        if found.posted_before_ms < found.sealed_before_ms:
            raise BadLine(line.number, "more of the meter was sealed before the period than had been paid for")
        self._check_price(line.number, meter)
        if self.milli.setdefault(meter.group, meter.milli) != meter.milli:
            raise BadLine(line.number, "the device has another share than another meter of it says")
        self._last = found.id
        self.counts[found.id] = Count(meter, found.sealed_before_ms, found.posted_before_ms)

    def _check_price(self, number: int, meter: Meter) -> None:
        version = self.prices.get(meter.price_version)
        if version is None:
            raise BadLine(number, "the meter's price version is not in the file")
        if (version.currency, version.unit) != (meter.currency, meter.unit):
            raise BadLine(number, "the price version is of another currency or unit")
        discounts = {
            "on_demand": 0,
            "preemptible": version.preemptible_discount_permille,
            "reserved": version.reserved_discount_permille,
        }
        price = discounted(version.price_micro, permille=discounts[meter.terms])
        if meter.price_micro_per_gpu_hour != price:
            said = f"{meter.price_micro_per_gpu_hour}, its version and terms make it {price}"
            raise BadLine(number, f"the meter's price is {said}")


@dataclass(frozen=True)
class Place:
    """Between two records: the position of the one before, and how much of each meter is sealed."""

    position: Position
    sealed_ms: dict[str, int]


@dataclass
class Chain:
    """The records of the file.

    `spans` is what they cover, with those of the files before; `fresh` is without. What was sealed after the period is
    in `later` instead: the next file begins with it, at `boundary`. `known` is a position that the chain has to pass.
    """

    bill: Bill
    meters: Meters
    spans: dict[Group, Spans]
    position: Position
    known: Position | None = None
    sealed_ms: int = 0
    records: int = 0
    fresh: dict[Group, Spans] = field(default_factory=dict)
    later: dict[Group, Spans] = field(default_factory=dict)
    boundary: Place | None = None

    def take(self, line: Line, found: RecordLine) -> None:
        record, number = found.record, line.number
        if record.sequence != self.position.sequence + 1 or record.previous != self.position.hash:
            raise BadLine(number, f"record {record.sequence} does not follow record {self.position.sequence}")
        if found.hash != sha256(canonical(line.body["record"])):
            raise BadLine(number, "the record's hash is not that of what it says")
        if record.customer != self.bill.customer:
            raise BadLine(number, "the record is another customer's")
        if record.sealed_ms < max(self.sealed_ms, self.bill.from_ms):
            raise BadLine(number, "the record was sealed before the one before, or before the period")
        count = self.meters.counts.get(record.meter)
        if count is None:
            raise BadLine(number, "the record's meter is not in the file")
        if record.sealed_ms >= self.bill.to_ms and self.boundary is None:
            self.boundary = self.mark()
        self._count(number, record, count)
        self.position = Position(record.sequence, found.hash)
        if self.known is not None and self.known.sequence == record.sequence and self.known != self.position:
            raise BadLine(number, "the record is another than the one that a head in the file before is of")
        self.sealed_ms = record.sealed_ms
        self.records += 1

    def mark(self) -> Place:
        return Place(self.position, {key: count.sealed_ms for key, count in self.meters.counts.items()})

    def _count(self, number: int, record: Record, count: Count) -> None:
        if record.from_ms >= record.to_ms:
            raise BadLine(number, "the record has no length")
        if record.from_ms < count.meter.price_from_ms:
            raise BadLine(number, "the record is of a time before its meter's price began")
        if record.proven_ms != count.sealed_ms + record.to_ms - record.from_ms:
            raise BadLine(number, "what the meter has proven is not what it was before and the record's time")
        count.sealed_ms = record.proven_ms
        group = count.meter.group
        spans = self.spans.setdefault(group, Spans())
        target = spans if self.boundary is None else self.later.setdefault(group, Spans())
        if spans.overlaps(record.from_ms, record.to_ms) or not target.add(record.from_ms, record.to_ms):
            raise BadLine(number, "a moment of the record's device is in another record already")
        self.fresh.setdefault(group, Spans()).add(record.from_ms, record.to_ms)


def unsealed_ms(counts: Mapping[str, Count]) -> int:
    """Time that was paid for and is in no record yet."""
    return sum(max(0, count.posted_ms - count.sealed_ms) for count in counts.values())
