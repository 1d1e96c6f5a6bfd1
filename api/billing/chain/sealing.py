"""Sealing: what a meter has proven since its last record is appended to its customer's chain.

Nothing that ingestion locks is locked here, so neither waits for the other; one lock per customer keeps two sealers
from writing the same link.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.orm import Session

from api.billing.chain.canonical import GENESIS, Value, canonical, digest
from api.billing.chain.tables import UsageRecord
from api.bulk import document, insert_rows, recordset

MAX_METERS = 200
"""Meters that one transaction seals."""
_CHAIN_LOCK = 7_303 << 40  # advisory locks of this kind, one per customer

_TAIL = text(
    "select sequence, hash, sealed_ms from usage_records where customer_id = :customer order by sequence desc limit 1"
)
# One statement, so that its meters and their proven time are of one moment.
_SELECT_UNSEALED = (
    "select m.id, s.digest, coalesce(s.sealed_ms, 0) as sealed_ms, p.spans::text as covered,"
    " array(select array[lower(part), upper(part)] from unnest(p.spans - coalesce(s.covered, '{}')) part) as pieces"
    " from usage_meters m left join sealed_meters s on s.meter_id = m.id"
    " cross join lateral (select range_agg(int8range(from_ms, to_ms)) as spans from usage_intervals"
    " where meter_id = m.id) p"
    " where m.customer_id = :customer and m.proven_ms > coalesce(s.sealed_ms, 0)"
)
_UNSEALED = text(f"{_SELECT_UNSEALED} order by m.id limit :most")
_UNSEALED_OF = text(f"{_SELECT_UNSEALED} and m.id = any(:ids) order by m.id limit :most")
_BODIES = text(
    "select m.id, a.uid as allocation, c.uid as customer, m.generation, g.uuid as device, g.model as device_model,"
    " e.uid as environment, t.uid as task, m.milli, v.uid as price_version, v.currency, v.unit,"
    " m.terms, m.price_from_ms, m.price_micro_per_gpu_hour"
    " from usage_meters m join allocations a on a.id = m.allocation_id join gpus g on g.id = m.gpu_id"
    " join customers c on c.id = m.customer_id join price_versions v on v.id = m.price_version_id"
    " join holds h on h.allocation_id = m.allocation_id and h.generation = m.generation"
    " left join environments e on e.id = h.environment_id left join tasks t on t.id = h.task_id"
    " where m.id = any(:ids) order by m.id"
)
_ADD_METERS = text(
    "insert into sealed_meters (meter_id, customer_id, digest, body, covered, sealed_ms)"
    " select meter_id, :customer, digest, body, '{}', 0"
    f" from {recordset(meter_id='bigint', digest='bytea', body='text')}"
)
_COVER = text(
    "update sealed_meters s set covered = r.covered, sealed_ms = r.sealed_ms"
    f" from {recordset(meter_id='bigint', covered='int8multirange', sealed_ms='bigint')} where s.meter_id = r.meter_id"
)
_NOW_MS = text("select (extract(epoch from clock_timestamp()) * 1000)::bigint")


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a customer's chain."""

    sequence: int
    hash: bytes
    sealed_ms: int


def tail(session: Session, customer_id: int) -> Link:
    """The last record of a customer, number 0 where there is none."""
    row = session.execute(_TAIL, {"customer": customer_id}).one_or_none()
    return Link(0, GENESIS, 0) if row is None else Link(*row)


def seal(session: Session, customer_id: int, meter_ids: Sequence[int] | None = None) -> bool:
    """Append what up to MAX_METERS of a customer's meters have proven since their last records.

    Answers whether that was all: nothing is left that was committed before the call. With `meter_ids`, it is about
    these alone, and the customer's others, which may be very many, are not looked at.
    """
    lock_chain(session, customer_id)
    end = tail(session, customer_id)
    values = {"customer": customer_id, "most": MAX_METERS, "ids": meter_ids}
    unsealed = session.execute(_UNSEALED if meter_ids is None else _UNSEALED_OF, values).all()
    if not unsealed:
        return True
    digests = _digests(session, customer_id, unsealed)
    customer = str(session.scalar(text("select uid from customers where id = :id"), {"id": customer_id}))
    # Read after what is sealed was: no record is older than the posting that pays for it.
    end = replace(end, sealed_ms=max(end.sealed_ms, session.execute(_NOW_MS).scalar_one()))
    insert_rows(session, UsageRecord, list(_records(customer_id, customer, end, unsealed, digests)))
    covered = [
        {"meter_id": row.id, "covered": row.covered, "sealed_ms": row.sealed_ms + _length(row.pieces)}
        for row in unsealed
    ]
    session.execute(_COVER, {"rows": document(covered)})
    return len(unsealed) < MAX_METERS


def lock_chain(session: Session, customer_id: int) -> None:
    """Until the transaction ends, no one else appends to this customer's chain."""
    session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _CHAIN_LOCK + customer_id})


def _records(
    customer_id: int, customer: str, end: Link, unsealed: Sequence[Row[Any]], digests: Mapping[int, bytes]
) -> Iterator[dict[str, Any]]:
    """Rows of the records to be, linked to each other and to the end of the chain."""
    sequence, previous = end.sequence, end.hash
    for meter in unsealed:
        proven_ms = meter.sealed_ms
        for from_ms, to_ms in meter.pieces:
            sequence += 1
            proven_ms += to_ms - from_ms
            facts = {"sequence": sequence, "from_ms": from_ms, "to_ms": to_ms, "proven_ms": proven_ms}
            facts["sealed_ms"] = end.sealed_ms
            body = record_body(customer=customer, meter=digests[meter.id], previous=previous, **facts)
            row = {"customer_id": customer_id, "meter_id": meter.id, "previous": _bytea(previous), **facts}
            previous = digest(body)
            yield row | {"hash": _bytea(previous)}


def record_body(
    *,
    customer: str | UUID,
    sequence: int,
    previous: bytes,
    meter: bytes,
    from_ms: int,
    to_ms: int,
    proven_ms: int,
    sealed_ms: int,
) -> dict[str, Value]:
    """What a record's hash covers."""
    return {
        "customer": str(customer),
        "sequence": sequence,
        "previous": previous.hex(),
        "meter": meter.hex(),
        "from_ms": from_ms,
        "to_ms": to_ms,
        "proven_ms": proven_ms,
        "sealed_ms": sealed_ms,
    }


def _digests(session: Session, customer_id: int, unsealed: Sequence[Row[Any]]) -> dict[int, bytes]:
    """The digest of each meter, with those of new meters written down."""
    digests = {row.id: row.digest for row in unsealed if row.digest is not None}
    new = [row.id for row in unsealed if row.digest is None]
    if new:
        bodies = meter_bodies(session.connection(), new)
        rows = [
            {"meter_id": meter_id, "digest": _bytea(found), "body": body} for meter_id, (found, body) in bodies.items()
        ]
        session.execute(_ADD_METERS, {"rows": document(rows), "customer": customer_id})
        digests |= {meter_id: found for meter_id, (found, _) in bodies.items()}
    return digests


def meter_bodies(connection: Connection, meter_ids: Collection[int]) -> dict[int, tuple[bytes, str]]:
    """What meters are, by id: the digest and the canonical text."""
    found = {}
    for row in connection.execute(_BODIES, {"ids": list(meter_ids)}):
        body = canonical(_meter_body(row))
        found[row.id] = hashlib.sha256(body).digest(), body.decode()
    return found


def _meter_body(row: Row[Any]) -> dict[str, Value]:
    return {
        "allocation": str(row.allocation),
        "currency": row.currency,
        "customer": str(row.customer),
        "device": row.device,
        "device_model": row.device_model,
        "environment": _text(row.environment),
        "generation": row.generation,
        "milli": row.milli,
        "price_from_ms": row.price_from_ms,
        "price_micro_per_gpu_hour": row.price_micro_per_gpu_hour,
        "price_version": str(row.price_version),
        "task": _text(row.task),
        "terms": row.terms,
        "unit": row.unit,
    }


def _text(uid: UUID | None) -> str | None:
    return None if uid is None else str(uid)


def _length(pieces: Sequence[Sequence[int]]) -> int:
    return sum(to_ms - from_ms for from_ms, to_ms in pieces)


def _bytea(value: bytes) -> str:
    """As PostgreSQL reads it in a JSON document."""
    return f"\\x{value.hex()}"
