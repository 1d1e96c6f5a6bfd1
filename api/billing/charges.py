"""Turning proof into money: meters, their intervals, and the postings that charge for what was newly proven."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from api.billing.accounts import customer_accounts
from api.billing.coverage import Part, split
from api.billing.journal import Entry, JournalKind, Transaction, post
from api.billing.stretches import stretches_of
from api.billing.tables import Hold, PriceVersion
from api.metering.tables import UsageInterval, UsageMeter
from scheduler.intervals import Span, absorb
from scheduler.money import cumulative_charge_micro

_MeterKey = tuple[int, int]  # (GPU id, where the stretch of its price begins)


def charge(
    session: Session, hold: Hold, proof: Mapping[int, Sequence[Span]], *, milli: Mapping[int, int], actor: str
) -> int:
    """Bill what `proof` (spans by GPU id) adds to what is proven, from the hold that was bought for it.

    `milli` is the share of each of those GPUs. The caller has locked the hold and found the spans to lie within what it
    covers. Proof of time that is proven already changes nothing; each moment counts at the price of its stretch.
    Answers the charge in micro-units.
    """
    price = session.get_one(PriceVersion, hold.price_version_id)
    parts = split(proof, stretches_of(session, hold))
    meters = _meters(session, hold, parts, milli)
    accounts = customer_accounts(session, hold.customer_id, price.currency)
    entries: list[Entry] = []
    for part in parts:
        meter = meters[part.gpu_id, part.stretch.from_ms]
        gained_ms = _extend_intervals(session, meter, part.spans)
        if gained_ms == 0:
            continue
        meter.proven_ms += gained_ms
        total = cumulative_charge_micro(
            price_micro_per_gpu_hour=meter.price_micro_per_gpu_hour, milli=meter.milli, duration_ms=meter.proven_ms
        )
        entries.append(Entry(accounts.holds, meter.charged_micro - total, meter.id, gained_ms))
        meter.charged_micro = total
    if not entries:
        return 0
    amount = -sum(entry.amount_micro for entry in entries)
    hold.amount_micro -= amount
    usage = Transaction(
        customer_id=hold.customer_id,
        key=_key(hold, meters),
        kind=JournalKind.USAGE,
        actor=actor,
        postings=[*entries, Entry(accounts.revenue, amount)],
        details={"allocation_id": hold.allocation_id, "generation": hold.generation},
    )
    post(session, usage)
    return amount


def _key(hold: Hold, meters: Mapping[_MeterKey, UsageMeter]) -> str:
    """Proven time only grows, so that each state of the meters is charged for once."""
    proven_ms = sum(meter.proven_ms for meter in meters.values())
    return f"usage:{hold.allocation_id}:{hold.generation}:{proven_ms}"


def _meters(
    session: Session, hold: Hold, parts: Sequence[Part], milli: Mapping[int, int]
) -> dict[_MeterKey, UsageMeter]:
    """All meters of the hold's generation, with new ones for GPUs and stretches that have none."""
    query = select(UsageMeter).where(
        UsageMeter.allocation_id == hold.allocation_id, UsageMeter.generation == hold.generation
    )
    found = session.scalars(query.execution_options(populate_existing=True))
    meters = {(meter.gpu_id, meter.price_from_ms): meter for meter in found}
    for part in parts:
        key = part.gpu_id, part.stretch.from_ms
        if key not in meters:
            meters[key] = UsageMeter(
                allocation_id=hold.allocation_id,
                generation=hold.generation,
                gpu_id=part.gpu_id,
                customer_id=hold.customer_id,
                milli=milli[part.gpu_id],
                price_from_ms=part.stretch.from_ms,
                price_version_id=part.stretch.price_version_id,
                terms=part.stretch.terms,
                price_micro_per_gpu_hour=part.stretch.price_micro_per_gpu_hour,
                proven_ms=0,
                charged_micro=0,
            )
            session.add(meters[key])
    session.flush()
    return meters


def _extend_intervals(session: Session, meter: UsageMeter, proof: Sequence[Span]) -> int:
    """Bring the meter's intervals up to the union with `proof`; answers by how many milliseconds they grew."""
    query = select(UsageInterval).where(
        UsageInterval.meter_id == meter.id,
        UsageInterval.to_ms >= min(span.from_ms for span in proof),
        UsageInterval.from_ms <= max(span.to_ms for span in proof),
    )
    rows = {Span(row.from_ms, row.to_ms): row for row in session.scalars(query)}
    change = absorb(sorted(rows), proof)
    kept = set(change.merged) & rows.keys()
    grown: dict[Span, Span] = {}  # each new span takes over the first row that it absorbs
    for span in sorted(rows.keys() - kept):
        owner = next(each for each in change.merged if each.from_ms <= span.from_ms and span.to_ms <= each.to_ms)
        grown.setdefault(owner, span)
    absorbed = [rows[span].id for span in rows.keys() - kept - set(grown.values())]
    if absorbed:  # first, so that no two rows overlap at any time
        session.execute(delete(UsageInterval).where(UsageInterval.id.in_(absorbed)))
    for new in sorted(set(change.merged) - kept):
        if old := grown.get(new):
            rows[old].from_ms, rows[old].to_ms = new.from_ms, new.to_ms
        else:
            session.add(
                UsageInterval(meter_id=meter.id, customer_id=meter.customer_id, from_ms=new.from_ms, to_ms=new.to_ms)
            )
    session.flush()
    return change.gained_ms
