"""Taking in usage: every window is kept, what of it counts is billed, and saying it again changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from api.billing.accounts import Accounts, Owner, accounts_of, lock_accounts
from api.billing.charges import LockedHold, Proof, charge
from api.billing.settlement import close_hold, proof_is_complete, reopen_hold
from api.billing.tables import Hold
from api.bulk import insert_rows
from api.clock import to_ms, utc_now
from api.db import Database
from api.metering.grants import LockedGrant, lock_grants
from api.metering.received import lock_and_sift, mark
from api.metering.screening import Quarantine, Verdict
from api.metering.series import Screened, screen_series
from api.metering.tables import UsageSeries
from api.pipeline import pipelined
from scheduler.host_protocol import UsageBatch, UsageReceipt, UsageWindow
from scheduler.intervals import Span

Grants = Mapping[str, LockedGrant]  # by allocation uid


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
    fresh = lock_and_sift(session, host_id, windows)
    named = [*fresh.series, *(each.series for each in fresh.refused)]
    if not named:
        return
    grants = lock_grants(session, {series.allocation_uid for series in named})
    screened: list[Screened] = []
    for series in fresh.series:
        known = grants.get(series.allocation_uid)
        grant = known.grant if known else None
        screened += screen_series(series, grant, host_id=host_id, received_ms=to_ms(now))
    screened += fresh.refused
    accounts = _lock_money(session, screened, grants)
    screened = _fund(session, screened, grants)
    _store(session, host_id, screened)
    charge(session, _proofs(screened, grants), accounts, actor=f"host:{fresh.host_uid}")
    _close_complete(session, grants, now)


def _lock_money(session: Session, screened: Iterable[Screened], grants: Grants) -> Mapping[Owner, Accounts]:
    """Lock the accounts of every customer that may be charged or paid back, all at once, in their order."""
    charged = {each.series.allocation_uid for each in screened if each.billed}
    holds = [(uid, known.hold) for uid, known in grants.items() if known.hold is not None]
    accounts = accounts_of(session, {hold.owner for uid, hold in holds if uid in charged or hold.ends_with_windows})
    lock_accounts(session, [a for each in accounts.values() for a in (each.wallet, each.holds, each.revenue)])
    return accounts


def _fund(session: Session, screened: list[Screened], grants: Grants) -> list[Screened]:
    """Proof that comes after its hold was given back is held for anew, or goes to quarantine for want of money."""
    unfunded = set()
    for uid in {each.series.allocation_uid for each in screened if each.billed}:
        hold = grants[uid].hold
        if hold is not None and hold.closed and not reopen_hold(session, _row_of(session, hold)):
            unfunded.add(uid)
    lacking = Verdict(None, None, Quarantine.UNFUNDED)
    return [
        replace(each, verdict=lacking) if each.billed and each.series.allocation_uid in unfunded else each
        for each in screened
    ]


def _row_of(session: Session, hold: LockedHold) -> Hold:
    """As it is by now."""
    return session.get_one(Hold, (hold.allocation_id, hold.generation), populate_existing=True)


def _store(session: Session, host_id: int, screened: Sequence[Screened]) -> None:
    with pipelined(session):
        insert_rows(session, UsageSeries, [_row(host_id, each) for each in screened])
        mark(session, host_id, screened)


def _row(host_id: int, screened: Screened) -> dict[str, Any]:  # Any: columns by name
    series, verdict = screened.series, screened.verdict
    part = screened.billed if verdict.quarantine else None
    return {
        "host_id": host_id,
        "boot_id": series.boot_id,
        "allocation_uid": series.allocation_uid,
        "generation": series.generation,
        "container_id": series.container_id,
        "device_uuid": series.device_uuid,
        "milli": series.milli,
        "first_sequence": series.sequences[0],
        "last_sequence": series.sequences[-1],
        "step": series.sequences.step,
        # As PostgreSQL writes it, which it reads in a fraction of the time that it takes for a list in JSON.
        "cuts_ms": f"{{{','.join(map(str, series.cuts))}}}",
        "billed_from_ms": part and part.from_ms,
        "billed_to_ms": part and part.to_ms,
        "quarantine": verdict.quarantine,
    }


def _proofs(screened: Iterable[Screened], grants: Grants) -> list[Proof]:
    spans: dict[str, dict[int, list[Span]]] = {}
    for each in screened:
        if each.billed is not None and each.verdict.gpu_id is not None:
            of_allocation = spans.setdefault(each.series.allocation_uid, {})
            of_allocation.setdefault(each.verdict.gpu_id, []).append(each.billed)
    proofs = []
    for uid in sorted(spans):
        known = grants[uid]
        assert known.hold is not None  # nothing is billed without one
        milli = {device.gpu_id: device.milli for device in known.grant.devices.values()}
        proofs.append(Proof(known.hold, spans[uid], milli))
    return proofs


def _close_complete(session: Session, grants: Grants, now: datetime) -> None:
    """Pay back what is left of holds whose last proof has now come: their customers need not wait for a sweep."""
    for _, known in sorted(grants.items()):
        if known.hold is None or not known.hold.ends_with_windows:
            continue
        hold = _row_of(session, known.hold)
        if hold.closed_at is None and proof_is_complete(session, hold):
            close_hold(session, hold, now)
