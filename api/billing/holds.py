"""Holds: the worst case of what runs is set aside before it runs, so that a prepaid wallet never goes below zero.

A hold belongs to one generation of an allocation. It is bought in steps of minutes (one journal transaction each),
shrinks as usage is charged from it, and what is left goes back when no more proof can come.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.billing.accounts import Accounts, customer_accounts, lock_accounts
from api.billing.journal import JournalKind, transfer
from api.billing.tables import Hold, PriceVersion
from api.clock import from_ms, to_ms, utc_now
from api.environments.tables import Environment
from api.machines.tables import Host
from api.metering.tables import UsageMeter, UsageWindow
from scheduler.host_protocol import LeaseEnd
from scheduler.money import affordable_ms, worst_case_charge_micro
from scheduler.states import AllocationState, DeviceStatus

ACTOR = "controller"
SMALLEST_STEP_MS = 1000
"""A wallet that pays for less more time than this is left alone, so that its end makes no trail of tiny holds."""
AHEAD = 2
"""Disconnect limits that an extension buys."""
SETTLE_CONFIRMED = timedelta(minutes=15)
"""How long proof is waited for from a host that answers: it ships its spool every second."""
SETTLE_UNCONFIRMED = timedelta(days=7)
"""The same from a host that was lost: its spool comes back with it."""
SWEEP_LIMIT = 100


def place_hold(
    session: Session,
    *,
    allocation: Allocation,
    price: PriceVersion,
    devices_milli: int,
    until: datetime,
    now: datetime | None = None,
) -> bool:
    """Hold the worst case from now until `until` for an allocation that goes `queued -> placing`.

    The caller has locked the allocation, and may move it before or after. False, and nothing changed, if the available
    balance in the price's currency does not cover it.
    """
    generation = allocation.generation + (allocation.state == AllocationState.QUEUED)
    if session.get(Hold, (allocation.id, generation)) is not None:
        return True
    starts_ms, covers_ms = to_ms(now or utc_now()), to_ms(until)
    devices = max(allocation.gpus, -(-devices_milli // 1000))
    amount = _most(price, devices_milli, covers_ms - starts_ms, devices=devices)
    accounts = customer_accounts(session, allocation.customer_id, price.currency)
    if lock_accounts(session, (accounts.wallet, accounts.holds))[accounts.wallet].balance_micro < amount:
        return False
    hold = Hold(
        allocation_id=allocation.id,
        generation=generation,
        customer_id=allocation.customer_id,
        environment_id=session.scalar(select(Environment.id).where(Environment.allocation_id == allocation.id)),
        price_version_id=price.id,
        devices_milli=devices_milli,
        devices=devices,
        starts_ms=starts_ms,
        covers_until_ms=covers_ms,
        bought_micro=0,
        amount_micro=0,
        steps=0,
    )
    session.add(hold)
    _buy(session, hold, accounts, amount)
    return True


def extend_hold(
    session: Session, allocation: Allocation, *, until: datetime | None = None, now: datetime | None = None
) -> datetime:
    """Move the hold of an allocation's current generation on towards `until`, as far as the balance covers.

    Answers the moment up to which its time is paid for. Cheap to call at every renewal: while more than half of the
    time from now to `until` is covered, it reads one row and writes none. `until` is twice the disconnect limit ahead
    by default, so that the limit itself stays covered at the price of one journal transaction per limit's length.
    """
    now = now or utc_now()
    hold = session.get(Hold, (allocation.id, allocation.generation))
    if hold is None:
        return now
    if hold.billable_until_ms is not None:
        return from_ms(min(hold.billable_until_ms, hold.covers_until_ms))
    now_ms = to_ms(now)
    until_ms = to_ms(until or now + AHEAD * timedelta(seconds=allocation.disconnect_s))
    if hold.covers_until_ms - now_ms <= (until_ms - now_ms) // 2:
        _extend(session, _lock(session, hold), until_ms)
    return from_ms(hold.covers_until_ms)


def settle_hold(
    session: Session, allocation: Allocation, *, ended: LeaseEnd | None, now: datetime | None = None
) -> None:
    """Keep only what may still be proven, at release or when a placement is taken back.

    The end is what the host says, and never after `run_until` or what was paid for. If the lease's last window is in,
    or there was none to come, nothing is kept. With None nobody knows the end: what ran may be proven until
    `run_until`, unless the allocation never became active. Proof from a lost host is waited for much longer than from
    one that answers. Idempotent.
    """
    hold = session.get(Hold, (allocation.id, allocation.generation))
    if hold is None or _lock(session, hold).billable_until_ms is not None:
        return
    never_ran = ended is None and allocation.active_at is None
    limits = [hold.covers_until_ms]
    if allocation.run_until is not None:
        limits.append(to_ms(allocation.run_until))
    if ended is not None:
        limits.append(ended.ended_at_ms)
    now = now or utc_now()
    # Asked before the row changes: a query flushes, and the two columns may only change together.
    waits = ended is None and _host_is_lost(session, allocation)
    hold.billable_until_ms = hold.starts_ms if never_ran else max(hold.starts_ms, min(limits))
    hold.release_at = now + (SETTLE_UNCONFIRMED if waits else SETTLE_CONFIRMED)
    if ended is not None and ended.last_window is not None:
        hold.last_boot_id, hold.last_sequence = ended.last_window.boot_id, ended.last_window.sequence
    complete = ended is not None and (ended.last_window is None or proof_is_complete(session, hold))
    kept = 0 if complete else unproven_micro(session, hold)
    _give_back(session, hold, max(0, hold.amount_micro - kept))
    if kept == 0:
        hold.closed_at = now
    session.flush()


def proof_is_complete(session: Session, hold: Hold) -> bool:
    """Whether the last window that the host announced at the lease's end is in: hosts ship in order."""
    if hold.last_boot_id is None:
        return False
    query = (
        select(UsageWindow.id)
        .join(Allocation, Allocation.host_id == UsageWindow.host_id)
        .where(Allocation.id == hold.allocation_id)
        .where(UsageWindow.boot_id == hold.last_boot_id, UsageWindow.sequence == hold.last_sequence)
    )
    return session.scalar(query.limit(1)) is not None


def close_hold(session: Session, hold: Hold, now: datetime) -> None:
    """Give back all that is left of a settled hold, which the caller has locked."""
    _give_back(session, hold, hold.amount_micro)
    hold.closed_at = now
    session.flush()


def sweep_holds(session: Session, now: datetime) -> int:
    """Give back what is left of settled holds whose time has come; at most SWEEP_LIMIT. Answers how many."""
    proven = (
        select(func.coalesce(func.sum(UsageMeter.milli * UsageMeter.proven_ms), 0))
        .where(UsageMeter.allocation_id == Hold.allocation_id, UsageMeter.generation == Hold.generation)
        .scalar_subquery()
    )
    everything = Hold.devices_milli * (Hold.billable_until_ms - Hold.starts_ms)
    query = (
        select(Hold)
        .where(Hold.closed_at.is_(None), Hold.release_at.is_not(None))
        .where(or_(Hold.release_at <= now, proven >= everything))
        .order_by(Hold.customer_id, Hold.release_at)
        .limit(SWEEP_LIMIT)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    holds = list(session.scalars(query))
    owners = {(hold.customer_id, _price(session, hold).currency) for hold in holds}
    accounts = [customer_accounts(session, *owner) for owner in sorted(owners)]
    lock_accounts(session, [account for each in accounts for account in (each.wallet, each.holds)])
    for hold in holds:
        close_hold(session, hold, now)
    return len(holds)


def reopen_hold(session: Session, hold: Hold) -> bool:
    """Set aside again what a closed hold's unproven time may cost, for proof that came after it was given back.

    The caller has locked the hold. False if the wallet does not cover it.
    """
    price = _price(session, hold)
    accounts = customer_accounts(session, hold.customer_id, price.currency)
    amount = unproven_micro(session, hold)
    if lock_accounts(session, (accounts.wallet, accounts.holds))[accounts.wallet].balance_micro < amount:
        return False
    hold.closed_at = None
    hold.release_at = utc_now() + SETTLE_CONFIRMED
    _buy(session, hold, accounts, amount)
    return True


def unproven_micro(session: Session, hold: Hold) -> int:
    """An upper bound of what may still be charged to a settled hold; zero when every millisecond is proven."""
    totals = select(
        func.coalesce(func.sum(UsageMeter.milli * UsageMeter.proven_ms), 0),
        func.coalesce(func.sum(UsageMeter.charged_micro), 0),
    ).where(UsageMeter.allocation_id == hold.allocation_id, UsageMeter.generation == hold.generation)
    proven_milli_ms, charged = session.execute(totals).one()
    assert hold.billable_until_ms is not None
    length_ms = hold.billable_until_ms - hold.starts_ms
    if proven_milli_ms >= hold.devices_milli * length_ms:
        return 0
    worst = _most(_price(session, hold), hold.devices_milli, length_ms, devices=hold.devices)
    return max(0, worst - int(charged))


def _lock(session: Session, hold: Hold) -> Hold:
    session.refresh(hold, with_for_update={"key_share": True})
    return hold


def _host_is_lost(session: Session, allocation: Allocation) -> bool:
    found = session.scalar(select(Host.device_status).where(Host.id == allocation.host_id))
    return found == DeviceStatus.LOST


def _price(session: Session, hold: Hold) -> PriceVersion:
    return session.get_one(PriceVersion, hold.price_version_id)


def _most(price: PriceVersion, milli: int, duration_ms: int, *, devices: int) -> int:
    """The most that all devices together can be charged for that time, however it is split between them."""
    exact = worst_case_charge_micro(
        price_micro_per_gpu_hour=price.price_micro_per_gpu_hour, milli=milli, duration_ms=max(0, duration_ms)
    )
    return exact + _rounding(price, devices)


def _rounding(price: PriceVersion, devices: int) -> int:
    """Each device's charge is rounded for itself, by half a unit at most."""
    return devices if price.price_micro_per_gpu_hour else 0


def _extend(session: Session, hold: Hold, until_ms: int) -> None:
    price = _price(session, hold)
    accounts = customer_accounts(session, hold.customer_id, price.currency)
    wallet = lock_accounts(session, (accounts.wallet, accounts.holds))[accounts.wallet].balance_micro
    # What was bought so far covers starts..covers_until exactly; what it must become is counted from the start
    # too, so that rounding up does not accumulate over the steps.
    reach = affordable_ms(
        budget_micro=wallet + hold.bought_micro - _rounding(price, hold.devices),
        price_micro_per_gpu_hour=price.price_micro_per_gpu_hour,
        milli=hold.devices_milli,
    )
    target_ms = until_ms if reach is None else min(until_ms, hold.starts_ms + reach)
    if target_ms <= hold.covers_until_ms or (target_ms < until_ms and _tiny(hold, target_ms)):
        return
    bought = _most(price, hold.devices_milli, target_ms - hold.starts_ms, devices=hold.devices)
    hold.covers_until_ms = target_ms
    _buy(session, hold, accounts, bought - hold.bought_micro)


def _tiny(hold: Hold, target_ms: int) -> bool:
    return target_ms - hold.covers_until_ms < SMALLEST_STEP_MS


def _buy(session: Session, hold: Hold, accounts: Accounts, amount: int) -> None:
    if amount == 0:  # the time is free, or paid for by an earlier step's rounding
        session.flush()
        return
    hold.bought_micro += amount
    _move(session, hold, JournalKind.HOLD, source=accounts.wallet, target=accounts.holds, amount=amount)
    hold.amount_micro += amount
    session.flush()


def _give_back(session: Session, hold: Hold, amount: int) -> None:
    if amount == 0:
        return
    accounts = customer_accounts(session, hold.customer_id, _price(session, hold).currency)
    _move(session, hold, JournalKind.HOLD_RELEASE, source=accounts.holds, target=accounts.wallet, amount=amount)
    hold.amount_micro -= amount


def _move(session: Session, hold: Hold, kind: JournalKind, *, source: int, target: int, amount: int) -> None:
    hold.steps += 1
    transfer(
        session,
        customer_id=hold.customer_id,
        key=f"hold:{hold.allocation_id}:{hold.generation}:{hold.steps}",
        kind=kind,
        actor=ACTOR,
        source=source,
        target=target,
        amount_micro=amount,
        details={"allocation_id": hold.allocation_id, "generation": hold.generation},
    )
