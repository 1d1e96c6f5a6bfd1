"""Turning proof into money: meters, their intervals, and the postings that charge for what was newly proven.

All that came in one batch is charged by a few statements, however many allocations and devices it is of.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.accounts import Accounts, Owner
from api.billing.coverage import Part, Stretch, split
from api.billing.journal import Entry, JournalKind, Transaction, post_all
from api.bulk import document, insert_rows, insert_statement, recordset, update_rows
from api.metering.tables import UsageInterval, UsageMeter
from api.pipeline import pipelined
from scheduler.intervals import Span, absorb
from scheduler.money import cumulative_charge_micro

_Key = tuple[int, int, int, int]  # (allocation id, generation, GPU id, where its price begins)

_COLUMNS = (
    "id, allocation_id, generation, gpu_id, price_from_ms, customer_id, milli, price_micro_per_gpu_hour, proven_ms,"
    " charged_micro"
)
_MADE = f"returning {_COLUMNS}"
_METERS = text(
    f"select {_COLUMNS} from usage_meters m"
    f" join {recordset(allocation_id='bigint', generation='int')} using (allocation_id, generation)"
)
_REACH = recordset(
    allocation_id="bigint",
    generation="int",
    gpu_id="bigint",
    price_from_ms="bigint",
    from_ms="bigint",
    to_ms="bigint",
)
_TOUCHED = text(
    f"select i.id, i.meter_id, i.from_ms, i.to_ms from {_REACH}"
    " join usage_meters m using (allocation_id, generation, gpu_id, price_from_ms)"
    " join usage_intervals i on i.meter_id = m.id and i.to_ms >= r.from_ms and i.from_ms <= r.to_ms"
)
_SPEND = text(
    "update holds h set amount_micro = h.amount_micro - r.spent_micro from"
    f" {recordset(allocation_id='bigint', generation='int', spent_micro='bigint')}"
    " where h.allocation_id = r.allocation_id and h.generation = r.generation"
)
_DROP = text("delete from usage_intervals where id = any(:ids)")


@dataclass(frozen=True, slots=True)
class LockedHold:
    """Of a hold that the transaction has locked, what charging needs. `closed`: it was given back.

    `ends_with_windows`: it is settled, and goes back when the last windows of its hosts are in.
    """

    allocation_id: int
    generation: int
    customer_id: int
    currency: str
    stretches: Sequence[Stretch]
    closed: bool
    ends_with_windows: bool

    @property
    def owner(self) -> Owner:
        return self.customer_id, self.currency


@dataclass(frozen=True, slots=True)
class Proof:
    """What a batch proves of a hold's generation: spans by GPU id, and the share of each GPU in thousandths.

    The spans lie within what the hold covers.
    """

    hold: LockedHold
    spans: Mapping[int, Sequence[Span]]
    milli: Mapping[int, int]

    def parts(self) -> dict[_Key, Part]:
        """By meter: each moment counts at the price of its stretch."""
        hold = self.hold
        return {
            (hold.allocation_id, hold.generation, part.gpu_id, part.stretch.from_ms): part
            for part in split(self.spans, hold.stretches)
        }


@dataclass(slots=True)
class _Meter:
    id: int
    customer_id: int
    milli: int
    price_micro_per_gpu_hour: int
    proven_ms: int
    charged_micro: int


@dataclass(frozen=True, slots=True)
class _Growth:
    """What proof makes of a meter's intervals: rows that go, rows that become longer, by id, and new ones."""

    gained_ms: int
    dropped: Sequence[int]
    grown: Mapping[int, Span]
    added: Sequence[Span]


def charge(session: Session, proofs: Sequence[Proof], accounts: Mapping[Owner, Accounts], *, actor: str) -> None:
    """Bill what the proofs, of one generation each, add to what is proven, from the holds that were bought for it.

    The caller has locked the holds and the accounts. Proof of time that is proven already changes nothing.
    """
    if not proofs:
        return
    parts = [(proof, proof.parts()) for proof in proofs]
    meters, intervals = _read(session, {key: part for _, of_proof in parts for key, part in of_proof.items()})
    meters |= _new_meters(session, parts, meters)
    growths: dict[_Key, _Growth] = {}
    transactions, spent = [], []
    for proof, of_proof in parts:
        found = {key: _growth(intervals.get(meters[key].id, {}), part.spans) for key, part in of_proof.items()}
        grown = {key: growth for key, growth in found.items() if growth.gained_ms}
        if grown:
            growths |= grown
            usage = _bill(proof.hold, grown, meters, accounts[proof.hold.owner], actor=actor)
            transactions.append(usage)
            of_hold = {"allocation_id": proof.hold.allocation_id, "generation": proof.hold.generation}
            spent.append({**of_hold, "spent_micro": usage.postings[-1].amount_micro})
    if transactions:
        _write(session, meters, growths, spent)
        post_all(session, transactions)


def _bill(
    hold: LockedHold,
    grown: Mapping[_Key, _Growth],
    meters: Mapping[_Key, _Meter],
    accounts: Accounts,
    *,
    actor: str,
) -> Transaction:
    """Move the meters on, and say what that costs; the last posting is all of it."""
    entries = []
    for key, growth in grown.items():
        meter = meters[key]
        meter.proven_ms += growth.gained_ms
        total = cumulative_charge_micro(
            price_micro_per_gpu_hour=meter.price_micro_per_gpu_hour,
            milli=meter.milli,
            duration_ms=meter.proven_ms,
        )
        entries.append(Entry(accounts.holds, meter.charged_micro - total, meter.id, growth.gained_ms))
        meter.charged_micro = total
    amount = -sum(entry.amount_micro for entry in entries)
    generation = (hold.allocation_id, hold.generation)
    proven_ms = sum(meter.proven_ms for key, meter in meters.items() if key[:2] == generation)
    return Transaction(
        customer_id=hold.customer_id,
        # Proven time only grows, so that each state of the meters is charged for once.
        key=f"usage:{hold.allocation_id}:{hold.generation}:{proven_ms}",
        kind=JournalKind.USAGE,
        actor=actor,
        postings=[*entries, Entry(accounts.revenue, amount)],
        details={"allocation_id": hold.allocation_id, "generation": hold.generation},
    )


def _growth(known: Mapping[Span, int], proof: Sequence[Span]) -> _Growth:
    """Bring intervals (ids by span) up to the union with `proof`, which touches or overlaps each of them."""
    change = absorb(sorted(known), proof)
    grown: dict[Span, int] = {}  # each new span takes over the first row that it absorbs
    dropped = []
    starts = [span.from_ms for span in change.merged]
    for span, row_id in sorted(known.items()):
        owner = change.merged[bisect_right(starts, span.from_ms) - 1]
        if owner in grown:
            dropped.append(row_id)
        else:
            grown[owner] = row_id
    changed = {row_id: span for span, row_id in grown.items() if span not in known}
    return _Growth(change.gained_ms, dropped, changed, [span for span in change.merged if span not in grown])


def _read(session: Session, parts: Mapping[_Key, Part]) -> tuple[dict[_Key, _Meter], dict[int, dict[Span, int]]]:
    """All meters of the parts' generations, and by meter the intervals that the proof may touch, with their ids."""
    generations = [{"allocation_id": key[0], "generation": key[1]} for key in sorted({key[:2] for key in parts})]
    reach = [
        {
            **dict(zip(("allocation_id", "generation", "gpu_id", "price_from_ms"), key, strict=True)),
            "from_ms": min(span.from_ms for span in part.spans),
            "to_ms": max(span.to_ms for span in part.spans),
        }
        for key, part in parts.items()
    ]
    with pipelined(session) as pipeline:
        known = pipeline.ask(_METERS, {"rows": document(generations)})
        touched = pipeline.ask(_TOUCHED, {"rows": document(reach)})
        meters = {_key(row): _meter(row) for row in known.all()}
        intervals: dict[int, dict[Span, int]] = {}
        for row in touched.all():
            intervals.setdefault(row.meter_id, {})[Span(row.from_ms, row.to_ms)] = row.id
    return meters, intervals


def _new_meters(
    session: Session, parts: Sequence[tuple[Proof, Mapping[_Key, Part]]], known: Collection[_Key]
) -> dict[_Key, _Meter]:
    """Made for devices and stretches that have none."""
    rows = [
        {
            "allocation_id": proof.hold.allocation_id,
            "generation": proof.hold.generation,
            "gpu_id": part.gpu_id,
            "customer_id": proof.hold.customer_id,
            "milli": proof.milli[part.gpu_id],
            "price_from_ms": part.stretch.from_ms,
            "price_version_id": part.stretch.price_version_id,
            "terms": part.stretch.terms,
            "price_micro_per_gpu_hour": part.stretch.price_micro_per_gpu_hour,
        }
        for proof, of_proof in parts
        for key, part in of_proof.items()
        if key not in known
    ]
    if not rows:
        return {}
    made = session.execute(insert_statement(UsageMeter, tuple(rows[0]), _MADE), {"rows": document(rows)})
    return {_key(row): _meter(row) for row in made}


def _key(row: Any) -> _Key:  # Any: a row of the meters
    return row.allocation_id, row.generation, row.gpu_id, row.price_from_ms


def _meter(row: Any) -> _Meter:  # Any: a row of the meters
    return _Meter(row.id, row.customer_id, row.milli, row.price_micro_per_gpu_hour, row.proven_ms, row.charged_micro)


def _write(
    session: Session,
    meters: Mapping[_Key, _Meter],
    growths: Mapping[_Key, _Growth],
    spent: Sequence[Mapping[str, int]],
) -> None:
    """Bring meters, intervals and holds to what they have become."""
    dropped = [row_id for growth in growths.values() for row_id in growth.dropped]
    grown = [
        {"id": row_id, "from_ms": span.from_ms, "to_ms": span.to_ms}
        for growth in growths.values()
        for row_id, span in growth.grown.items()
    ]
    added = [
        {
            "meter_id": meters[key].id,
            "customer_id": meters[key].customer_id,
            "from_ms": span.from_ms,
            "to_ms": span.to_ms,
        }
        for key, growth in growths.items()
        for span in growth.added
    ]
    proven = [
        {"id": meter.id, "proven_ms": meter.proven_ms, "charged_micro": meter.charged_micro}
        for meter in (meters[key] for key in growths)
    ]
    with pipelined(session):
        if dropped:  # first, so that no two rows overlap at any time
            session.execute(_DROP, {"ids": dropped})
        update_rows(session, UsageInterval, ("id",), grown)
        insert_rows(session, UsageInterval, added)
        update_rows(session, UsageMeter, ("id",), proven)
        session.execute(_SPEND, {"rows": document(spent)})
