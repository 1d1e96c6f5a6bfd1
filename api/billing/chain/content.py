"""What a bill's lines say, read from one snapshot, row by row: memory does not grow with the bill."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, text

from api.billing.chain.canonical import Value
from api.billing.chain.sealing import meter_bodies, record_body
from api.bulk import document, recordset

_BATCH = 1000  # rows that are fetched at once
_NEVER = 2**63 - 1

# A transaction is of a month by its moment, which is not quite the order of the journal: what lies between the first
# and the last one of the month is in the file too.
_JOURNAL_RANGE = text(
    "select coalesce(min(id), (select min(id) from journal_transactions where customer_id = :customer and at >= :end),"
    " :never) as first, coalesce(max(id), 0) as last"
    " from journal_transactions where customer_id = :customer and at >= :start and at < :end"
)
_OPENING = text(
    "select a.kind, (a.balance_micro - coalesce((select sum(p.amount_micro) from journal_transactions t"
    " join postings p on p.transaction_id = t.id"
    " where t.customer_id = :customer and t.id >= :first and p.account_id = a.id), 0))::bigint as balance_micro"
    " from accounts a where a.customer_id = :customer and a.currency = :currency order by a.kind"
)
_METERS = text(
    "create temporary table bill_meters on commit drop as"
    " with recorded as (select meter_id, min(proven_ms - to_ms + from_ms) as before_ms from usage_records"
    " where customer_id = :customer and sequence > :after and sequence <= :last_record group by meter_id),"
    " posted as (select p.meter_id, sum(p.duration_ms) as since_ms, bool_or(t.id <= :last) as inside"
    " from journal_transactions t join postings p on p.transaction_id = t.id"
    " where t.customer_id = :customer and t.id >= :first and p.meter_id is not null group by p.meter_id)"
    " select m.id as meter_id, s.digest, s.body, m.price_version_id,"
    " (m.proven_ms - coalesce(p.since_ms, 0))::bigint as posted_before_ms,"
    " coalesce(r.before_ms, (select proven_ms from usage_records u where u.meter_id = m.id and u.sequence <= :after"
    " order by u.sequence desc limit 1), 0)::bigint as sealed_before_ms"
    " from usage_meters m left join recorded r on r.meter_id = m.id left join posted p on p.meter_id = m.id"
    " left join sealed_meters s on s.meter_id = m.id"
    " where m.id in (select meter_id from recorded union select meter_id from posted where inside)"
)
_NAME_METERS = text(
    "update bill_meters b set digest = r.digest, body = r.body"
    f" from {recordset(meter_id='bigint', digest='bytea', body='text')} where b.meter_id = r.meter_id"
)
_METER_LINES = text("select * from bill_meters order by digest")
_PRICES = text(
    "select uid, currency, (extract(epoch from effective_from) * 1000000)::bigint as effective_from_us, gpu_model,"
    " unit, price_micro, preemptible_discount_permille, reserved_discount_permille"
    " from price_versions where id in (select price_version_id from bill_meters) order by uid"
)
_RECORDS = text(
    "select r.sequence, r.previous, b.digest as meter, r.from_ms, r.to_ms, r.proven_ms, r.sealed_ms, r.hash"
    " from usage_records r join bill_meters b using (meter_id)"
    " where r.customer_id = :customer and r.sequence > :after and r.sequence <= :last_record order by r.sequence"
)
_DEVICES = text(
    "create temporary table bill_devices on commit drop as"
    " select a.uid::text as allocation, m.generation, g.uuid as device,"
    " range_agg(int8range(r.from_ms, r.to_ms)) as covered"
    " from usage_records r join usage_meters m on m.id = r.meter_id join allocations a on a.id = m.allocation_id"
    " join gpus g on g.id = m.gpu_id"
    " where r.customer_id = :customer and r.sequence > :after and r.sequence <= :last_record group by 1, 2, 3"
)
# The windows of each allocation are found by its index, once, and not once for each of its devices.
_WINDOWS = text(
    "select h.uid as host, w.boot_id, w.sequence, w.allocation_uid, w.generation, w.device_uuid, w.milli,"
    " w.from_ms, w.to_ms, w.billed_from_ms, w.billed_to_ms, w.quarantine"
    " from (select distinct allocation from bill_devices) a"
    " cross join lateral (select * from usage_windows where allocation_uid = a.allocation offset 0) w"
    " join bill_devices c on c.allocation = w.allocation_uid and c.generation = w.generation"
    " and c.device = w.device_uuid join hosts h on h.id = w.host_id"
    " where int8range(w.billed_from_ms, w.billed_to_ms) && c.covered"
    ' order by w.allocation_uid collate "C", w.generation, w.device_uuid collate "C", w.billed_from_ms, w.billed_to_ms,'
    " w.id"
)
_TRANSACTIONS = text(
    "select t.uid, t.kind, (extract(epoch from t.at) * 1000000)::bigint as at_us, array_agg(a.kind order by p.id)"
    " as accounts, array_agg(p.amount_micro order by p.id) as amounts, array_agg(p.duration_ms order by p.id)"
    " as durations, array_agg(encode(b.digest, 'hex') order by p.id) as meters"
    " from journal_transactions t join postings p on p.transaction_id = t.id join accounts a on a.id = p.account_id"
    " left join bill_meters b on b.meter_id = p.meter_id"
    " where t.customer_id = :customer and t.id >= :first and t.id <= :last and a.currency = :currency"
    " group by t.id order by t.id"
)


@dataclass(slots=True)
class Content:
    """The sections of one bill. `values` are the statements' parameters; the sums grow as transactions are read."""

    connection: Connection
    values: dict[str, Any]
    start_us: int
    end_us: int
    opening: Mapping[str, int] = field(default_factory=dict)
    amount_micro: int = 0
    duration_ms: int = 0
    moved: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Find out what belongs to the bill."""
        found = self.connection.execute(_JOURNAL_RANGE, self.values | {"never": _NEVER}).one()
        self.values |= {"first": found.first, "last": found.last}
        self.opening = {row.kind: row.balance_micro for row in self.connection.execute(_OPENING, self.values)}
        self.connection.execute(_METERS, self.values)
        self.connection.execute(_DEVICES, self.values)
        self.connection.execute(text("analyze bill_devices"))
        unsealed = self.connection.scalars(text("select meter_id from bill_meters where digest is null")).all()
        if unsealed:
            rows = [
                {"meter_id": meter_id, "digest": f"\\x{found.hex()}", "body": body}
                for meter_id, (found, body) in meter_bodies(self.connection, unsealed).items()
            ]
            self.connection.execute(_NAME_METERS, {"rows": document(rows)})

    def totals(self) -> Value:
        """Of the transactions that were read."""
        closing = {kind: amount + self.moved[kind] for kind, amount in self.opening.items()}
        return {"amount_micro": self.amount_micro, "duration_ms": self.duration_ms, "closing": closing}

    def price_versions(self) -> Iterator[Value]:
        for row in self._rows(_PRICES):
            yield {
                "id": str(row.uid),
                "currency": row.currency,
                "effective_from_us": row.effective_from_us,
                "gpu_model": row.gpu_model,
                "unit": row.unit,
                "price_micro": row.price_micro,
                "preemptible_discount_permille": row.preemptible_discount_permille,
                "reserved_discount_permille": row.reserved_discount_permille,
            }

    def meters(self) -> Iterator[tuple[str, Mapping[str, Value]]]:
        """The canonical text of what each meter is, and the rest of its line."""
        for row in self._rows(_METER_LINES):
            yield (
                row.body,
                {
                    "id": row.digest.hex(),
                    "posted_before_ms": row.posted_before_ms,
                    "sealed_before_ms": row.sealed_before_ms,
                },
            )

    def records(self) -> Iterator[Value]:
        for row in self._rows(_RECORDS):
            body = record_body(
                customer=self.values["customer_uid"],
                sequence=row.sequence,
                previous=row.previous,
                meter=row.meter,
                from_ms=row.from_ms,
                to_ms=row.to_ms,
                proven_ms=row.proven_ms,
                sealed_ms=row.sealed_ms,
            )
            yield {"hash": row.hash.hex(), "record": body}

    def windows(self) -> Iterator[Value]:
        for row in self._rows(_WINDOWS):
            yield {
                "host": str(row.host),
                "boot": row.boot_id,
                "sequence": row.sequence,
                "allocation": row.allocation_uid,
                "generation": row.generation,
                "device": row.device_uuid,
                "milli": row.milli,
                "from_ms": row.from_ms,
                "to_ms": row.to_ms,
                "billed_from_ms": row.billed_from_ms,
                "billed_to_ms": row.billed_to_ms,
                "quarantine": row.quarantine,
            }

    def transactions(self) -> Iterator[Value]:
        for row in self._rows(_TRANSACTIONS):
            postings = list(zip(row.accounts, row.amounts, row.durations, row.meters, strict=True))
            for account, amount, duration, _ in postings:
                self.moved[account] += amount
                if duration is not None and self.start_us <= row.at_us < self.end_us:
                    self.amount_micro -= amount
                    self.duration_ms += duration
            names = ("account", "amount_micro", "duration_ms", "meter")
            yield {
                "at_us": row.at_us,
                "id": str(row.uid),
                "kind": row.kind,
                "postings": [dict(zip(names, posting, strict=True)) for posting in postings],
            }

    def _rows(self, statement: Any) -> Iterator[Row[Any]]:
        streamed = self.connection.execution_options(stream_results=True, yield_per=_BATCH)
        return iter(streamed.execute(statement, self.values))
