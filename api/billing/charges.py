"""Turning proof into money: meters, their intervals, and the postings that charge for what was newly proven."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from api.billing.accounts import customer_accounts
from api.billing.journal import Entry, JournalKind, Transaction, post
from api.billing.tables import Hold, PriceVersion
from api.metering.tables import UsageInterval, UsageMeter
from scheduler.intervals import Span, absorb
from scheduler.money import cumulative_charge_micro


def charge(
    session: Session, hold: Hold, proof: Mapping[int, Sequence[Span]], *, milli: Mapping[int, int], actor: str
) -> int:
    """Bill what `proof` (spans by GPU id) adds to what is proven, from the hold that was bought for it.

    `milli` is the share of each of those GPUs. The caller has locked the hold and found the spans to lie within what it
    covers. Proof of time that is proven already changes nothing. Answers the charge in micro-units.
    """
    price = session.get_one(PriceVersion, hold.price_version_id)
    meters = _meters(session, hold, {gpu_id: milli[gpu_id] for gpu_id in proof})
    accounts = customer_accounts(session, hold.customer_id, price.currency)
    entries: list[Entry] = []
    for gpu_id in sorted(proof):
        meter = meters[gpu_id]
        gained_ms = _extend_intervals(session, meter, proof[gpu_id])
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


def _key(hold: Hold, meters: Mapping[int, UsageMeter]) -> str:
    """Proven time only grows, so that each state of the meters is charged for once."""
    proven_ms = sum(meter.proven_ms for meter in meters.values())
    return f"usage:{hold.allocation_id}:{hold.generation}:{proven_ms}"


def _meters(session: Session, hold: Hold, milli: Mapping[int, int]) -> dict[int, UsageMeter]:
    """All meters of the hold's generation by GPU id, with new ones for GPUs that have none."""
    query = select(UsageMeter).where(
        UsageMeter.allocation_id == hold.allocation_id, UsageMeter.generation == hold.generation
    )
    meters = {meter.gpu_id: meter for meter in session.scalars(query.execution_options(populate_existing=True))}
    for gpu_id in sorted(milli.keys() - meters.keys()):
        meters[gpu_id] = UsageMeter(
            allocation_id=hold.allocation_id,
            generation=hold.generation,
            gpu_id=gpu_id,
            customer_id=hold.customer_id,
            milli=milli[gpu_id],
            price_version_id=hold.price_version_id,
            terms=hold.terms,
            price_micro_per_gpu_hour=hold.price_micro_per_gpu_hour,
            proven_ms=0,
            charged_micro=0,
        )
        session.add(meters[gpu_id])
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
