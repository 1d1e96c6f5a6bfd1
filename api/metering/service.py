"""Taking in usage: every window is kept, what of it counts is billed, and saying it again changes nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from api.billing.accounts import customer_accounts, lock_accounts
from api.billing.charges import charge
from api.billing.settlement import close_hold, proof_is_complete, reopen_hold
from api.billing.tables import PriceVersion
from api.clock import to_ms, utc_now
from api.db import Database
from api.machines.tables import Host
from api.metering.grants import LockedGrant, lock_grants
from api.metering.screening import Quarantine, Verdict, clean, same_proof, screen
from api.metering.tables import UsageWindow as WindowRow
from scheduler.host_protocol import UsageBatch, UsageReceipt, UsageWindow
from scheduler.intervals import Span

_HOST_LOCK = 7_302 << 40  # advisory locks of this kind, one per host id


@dataclass(frozen=True, slots=True)
class _Screened:
    window: UsageWindow
    verdict: Verdict


def ingest(database: Database, host_id: int, batch: UsageBatch, *, now: datetime | None = None) -> UsageReceipt:
    """Keep and bill a batch from a host, in one transaction. Nothing in it is dropped and nothing in it is an error.

    A batch is a prefix of what the host's spool still holds, in its order: that is why the receipt names the last
    window of the batch's first boot. A window that was received before (host, boot, sequence) changes nothing.
    """
    if not batch.windows:
        return UsageReceipt(boot_id="", accepted_through=-1)
    database.transact(lambda session: _ingest(session, host_id, batch.windows, now or utc_now()))
    boot_id = batch.windows[0].boot_id
    return UsageReceipt(boot_id, max(each.sequence for each in batch.windows if each.boot_id == boot_id))


def _ingest(session: Session, host_id: int, windows: Sequence[UsageWindow], now: datetime) -> None:
    session.execute(select(func.pg_advisory_xact_lock(_HOST_LOCK + host_id)))
    # The host's row before any hold: the windows' foreign key would ask for it later, out of order.
    host_uid = session.scalars(
        select(Host.uid).where(Host.id == host_id).with_for_update(read=True, key_share=True)
    ).one()
    fresh = _unknown(session, host_id, windows)
    grants = lock_grants(session, {window.allocation_uid for window, _ in fresh})
    screened = [
        _Screened(window, _judge(window, refused, grants, host_id=host_id, received_ms=to_ms(now)))
        for window, refused in fresh
    ]
    _lock_money(session, screened, grants)
    screened = _fund(session, screened, grants)
    _store(session, host_id, screened)
    _bill(session, screened, grants, actor=f"host:{host_uid}")
    _close_complete(session, grants, now)


def _unknown(
    session: Session, host_id: int, windows: Iterable[UsageWindow]
) -> list[tuple[UsageWindow, Quarantine | None]]:
    """The windows that are not stored yet, each with the reason for which it is refused whatever it says."""
    cleaned = [(clean(window), window) for window in windows]
    known = _stored(session, host_id, [window for window, _ in cleaned])
    reused = _stored_reused(session, host_id, [window for window, _ in cleaned])
    fresh: list[tuple[UsageWindow, Quarantine | None]] = []
    for window, original in cleaned:
        key = (window.boot_id, window.sequence)
        first = known.setdefault(key, window)
        if first is window:
            fresh.append((window, Quarantine.MALFORMED if window != original else None))
        elif not same_proof(first, window) and window not in reused:
            reused.add(window)
            fresh.append((window, Quarantine.SEQUENCE_REUSED))
    return fresh


def _stored(session: Session, host_id: int, windows: Sequence[UsageWindow]) -> dict[tuple[str, int], UsageWindow]:
    found = {}
    for boot_id in {window.boot_id for window in windows}:
        query = select(WindowRow).where(
            WindowRow.host_id == host_id,
            WindowRow.boot_id == boot_id,
            WindowRow.sequence.in_([window.sequence for window in windows if window.boot_id == boot_id]),
            WindowRow.quarantine.is_distinct_from(str(Quarantine.SEQUENCE_REUSED)),
        )
        found.update({(row.boot_id, row.sequence): _value(row) for row in session.scalars(query)})
    return found


def _stored_reused(session: Session, host_id: int, windows: Sequence[UsageWindow]) -> set[UsageWindow]:
    query = select(WindowRow).where(
        WindowRow.host_id == host_id,
        WindowRow.quarantine == Quarantine.SEQUENCE_REUSED,
        WindowRow.sequence.in_([window.sequence for window in windows]),
    )
    return {_value(row) for row in session.scalars(query)}


def _value(row: WindowRow) -> UsageWindow:
    return UsageWindow(
        boot_id=row.boot_id,
        sequence=row.sequence,
        allocation_uid=row.allocation_uid,
        generation=row.generation,
        container_id=row.container_id,
        device_uuid=row.device_uuid,
        milli=row.milli,
        from_ms=row.from_ms,
        to_ms=row.to_ms,
    )


def _judge(
    window: UsageWindow,
    refused: Quarantine | None,
    grants: dict[str, LockedGrant],
    *,
    host_id: int,
    received_ms: int,
) -> Verdict:
    if refused is not None:
        return Verdict(None, None, refused)
    known = grants.get(window.allocation_uid)
    return screen(window, known.grant if known else None, host_id=host_id, received_ms=received_ms)


def _lock_money(session: Session, screened: Iterable[_Screened], grants: dict[str, LockedGrant]) -> None:
    """Lock the accounts of every customer that may be charged or paid back, all at once, in their order."""
    charged = {each.window.allocation_uid for each in screened if each.verdict.billed}
    owners = set()
    for uid, hold in ((uid, known.hold) for uid, known in grants.items() if known.hold is not None):
        if uid in charged or hold.last_boot_ids is not None:
            price = session.get_one(PriceVersion, hold.price_version_id)
            owners.add((hold.customer_id, price.currency))
    accounts = [customer_accounts(session, *owner) for owner in sorted(owners)]
    lock_accounts(session, [account for each in accounts for account in (each.wallet, each.holds, each.revenue)])


def _fund(session: Session, screened: list[_Screened], grants: dict[str, LockedGrant]) -> list[_Screened]:
    """Proof that comes after its hold was given back is held for anew, or goes to quarantine for want of money."""
    unfunded = set()
    for uid in {each.window.allocation_uid for each in screened if each.verdict.billed}:
        hold = grants[uid].hold
        if hold is not None and hold.closed_at is not None and not reopen_hold(session, hold):
            unfunded.add(uid)
    lacking = Verdict(None, None, Quarantine.UNFUNDED)
    return [
        replace(each, verdict=lacking) if each.verdict.billed and each.window.allocation_uid in unfunded else each
        for each in screened
    ]


def _store(session: Session, host_id: int, screened: Sequence[_Screened]) -> None:
    rows = []
    for window, verdict in ((each.window, each.verdict) for each in screened):
        row = {name: getattr(window, name) for name in UsageWindow.__slots__}
        row |= {"host_id": host_id, "quarantine": verdict.quarantine}
        row["billed_from_ms"] = verdict.billed.from_ms if verdict.billed else None
        row["billed_to_ms"] = verdict.billed.to_ms if verdict.billed else None
        rows.append(row)
    if rows:
        session.execute(insert(WindowRow), rows)


def _bill(session: Session, screened: Iterable[_Screened], grants: dict[str, LockedGrant], *, actor: str) -> None:
    proof: dict[str, dict[int, list[Span]]] = {}
    for each in screened:
        if each.verdict.billed is not None and each.verdict.gpu_id is not None:
            spans = proof.setdefault(each.window.allocation_uid, {})
            spans.setdefault(each.verdict.gpu_id, []).append(each.verdict.billed)
    for uid in sorted(proof):
        hold = grants[uid].hold
        assert hold is not None  # nothing is billed without one
        milli = {device.gpu_id: device.milli for device in grants[uid].grant.devices.values()}
        charge(session, hold, proof[uid], milli=milli, actor=actor)


def _close_complete(session: Session, grants: dict[str, LockedGrant], now: datetime) -> None:
    """Pay back what is left of holds whose last proof has now come: their customers need not wait for a sweep."""
    for _, known in sorted(grants.items()):
        hold = known.hold
        if hold is not None and hold.closed_at is None and proof_is_complete(session, hold):
            close_hold(session, hold, now)
