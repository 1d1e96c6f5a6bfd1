"""The end of holds: what may still be proven is kept, the rest goes back to the wallet."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, or_, select, text
from sqlalchemy.orm import Session

from api.billing.accounts import Owner, accounts_of, customer_accounts, lock_accounts
from api.billing.coverage import Size, Stretch, worst_until
from api.billing.holds import HoldKey, buy, key_of, transfer
from api.billing.journal import JournalKind, Transaction, post_all
from api.billing.stretches import Key, ask_earlier, present, stretches_of
from api.billing.tables import Hold, PriceVersion
from api.bulk import document, recordset, update_rows
from api.clock import to_ms, utc_now
from api.metering.tables import UsageMeter
from api.pipeline import Pipeline, pipelined
from scheduler.host_protocol import LeaseEnd

SETTLE_CONFIRMED = timedelta(minutes=15)
"""How long proof is waited for from a host that answers: it ships its spool every second."""
SETTLE_UNCONFIRMED = timedelta(days=7)
"""The same from a host that was lost: its spool comes back with it."""
SWEEP_LIMIT = 100

_Window = tuple[int, str, int]  # (allocation id, boot id, sequence)

_LOCK = text(
    "select h.allocation_id, h.generation, h.customer_id, h.devices_milli, h.devices, h.starts_ms, h.covers_until_ms,"
    " h.amount_micro, h.steps, h.price_version_id, h.terms, h.price_micro_per_gpu_hour, h.price_from_ms,"
    " h.price_until_ms"
    f" from holds h join {recordset(allocation_id='bigint', generation='int')} using (allocation_id, generation)"
    " where h.allocation_id = any(:keys) and h.billable_until_ms is null"
    " order by h.allocation_id, h.generation for no key update of h"
)
# Asked after the locks: a row whose version changes while it is waited for would fall out of a join.
_CURRENCIES = text(
    "select h.allocation_id, h.generation, p.currency from holds h join price_versions p on p.id = h.price_version_id"
    f" join {recordset(allocation_id='bigint', generation='int')} using (allocation_id, generation)"
    " where h.allocation_id = any(:keys)"
)
_PROVEN = text(
    "select m.allocation_id, m.generation, sum(m.milli * m.proven_ms)::bigint as milli_ms,"
    " sum(m.charged_micro)::bigint as charged"
    f" from usage_meters m join {recordset(allocation_id='bigint', generation='int')}"
    " using (allocation_id, generation) group by m.allocation_id, m.generation"
)
_ARRIVED = text(
    f"select r.allocation_id, r.boot_id, r.sequence"
    f" from {recordset(allocation_id='bigint', boot_id='text', sequence='bigint')}"
    " join allocations a on a.id = r.allocation_id where exists (select from usage_received u"
    " where u.host_id = any(a.host_ids) and u.boot_id = r.boot_id and u.sequences @> r.sequence)"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation of an allocation came to its end, on its hosts.

    `ends` is what the hosts say, one each; None where nobody knows. `ran` is whether it became active.
    """

    allocation_id: int
    generation: int
    run_until: datetime | None
    ran: bool
    ends: Sequence[LeaseEnd] | None
    host_lost: bool

    @property
    def last_windows(self) -> list[tuple[str, int]]:
        windows = [end.last_window for end in self.ends or () if end.last_window is not None]
        return [(window.boot_id, window.sequence) for window in windows]

    def billable_until_ms(self, starts_ms: int, covers_until_ms: int) -> int:
        """Never after `run_until` or what was paid for."""
        if self.ends is None and not self.ran:
            return starts_ms
        limits = [covers_until_ms]
        if self.run_until is not None:
            limits.append(to_ms(self.run_until))
        if self.ends is not None:
            limits.append(max(end.ended_at_ms for end in self.ends))
        return max(starts_ms, min(limits))


@dataclass(frozen=True, slots=True)
class Proven:
    """What a generation's meters say: thousandths of devices times milliseconds, and what they were charged."""

    milli_ms: int = 0
    charged_micro: int = 0


def settle_holds(session: Session, endings: Sequence[Ending], *, now: datetime | None = None) -> None:
    """Keep only what may still be proven, at release or when a placement is taken back.

    If the leases' last windows are in, or there were none to come, nothing is kept. Where nobody knows the end, what
    ran may be proven until `run_until`, unless the allocation never became active. Proof from a lost host is waited
    for much longer than from one that answers. Idempotent. The caller has locked the allocations.
    """
    if not endings:
        return
    by_key = {(ending.allocation_id, ending.generation): ending for ending in endings}
    with pipelined(session) as pipeline:
        keys = {"rows": _keys(by_key), "keys": [ending.allocation_id for ending in endings]}
        locked, priced = pipeline.ask(_LOCK, keys), pipeline.ask(_CURRENCIES, keys)
        totals = _ask_proven(pipeline, by_key)
        passed = ask_earlier(pipeline, by_key)
        delivered = _ask_arrived(pipeline, [(e.allocation_id, *window) for e in endings for window in e.last_windows])
        holds, currencies = locked.all(), {(row.allocation_id, row.generation): row.currency for row in priced.all()}
        proven, earlier, arrived = totals(), passed(), delivered()
    rows, given_back = [], []
    for hold in holds:
        key = hold.allocation_id, hold.generation
        complete = _is_complete(by_key[key], arrived)
        stretches = [*earlier.get(key, ()), present(hold)]
        row = _settled(hold, stretches, by_key[key], proven.get(key, Proven()), complete=complete, now=now or utc_now())
        rows.append(row)
        given_back.append((hold, currencies[key], hold.amount_micro - row["amount_micro"]))
    post_all(session, _returns(session, [each for each in given_back if each[-1]]))
    update_rows(session, Hold, ("allocation_id", "generation"), rows)


def proven_totals(session: Session, keys: Collection[Key]) -> Mapping[Key, Proven]:
    """By allocation and generation; those without a meter are missing."""
    with pipelined(session) as pipeline:
        return _ask_proven(pipeline, keys)()


def proof_is_complete(session: Session, hold: Hold) -> bool:
    """Whether the last windows that the hosts announced at the lease's end are in: hosts ship in order."""
    if hold.last_boot_ids is None or hold.last_sequences is None:
        return False
    pairs = zip(hold.last_boot_ids, hold.last_sequences, strict=True)
    last = {(hold.allocation_id, boot_id, sequence) for boot_id, sequence in pairs}
    with pipelined(session) as pipeline:
        return last <= _ask_arrived(pipeline, last)()


def close_hold(session: Session, hold: Hold, now: datetime) -> None:
    """Give back all that is left of a settled hold, which the caller has locked."""
    if hold.amount_micro:
        price = session.get_one(PriceVersion, hold.price_version_id)
        accounts = customer_accounts(session, hold.customer_id, price.currency)
        amount, hold.amount_micro = hold.amount_micro, 0
        hold.steps += 1
        pair = accounts.holds, accounts.wallet
        post_all(session, [transfer(key_of(hold), JournalKind.HOLD_RELEASE, hold.steps, pair, amount)])
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
    owners = {(hold.customer_id, session.get_one(PriceVersion, hold.price_version_id).currency) for hold in holds}
    accounts = accounts_of(session, owners)
    lock_accounts(session, [account for each in accounts.values() for account in (each.wallet, each.holds)])
    for hold in holds:
        close_hold(session, hold, now)
    return len(holds)


def reopen_hold(session: Session, hold: Hold) -> bool:
    """Set aside again what a closed hold's unproven time may cost, for proof that came after it was given back.

    The caller has locked the hold. False if the wallet does not cover it.
    """
    currency = session.get_one(PriceVersion, hold.price_version_id).currency
    accounts = customer_accounts(session, hold.customer_id, currency)
    key = hold.allocation_id, hold.generation
    assert hold.billable_until_ms is not None
    amount = unproven_micro(
        proven_totals(session, [key]).get(key, Proven()),
        stretches_of(session, hold),
        until_ms=hold.billable_until_ms,
        size=Size(hold.devices_milli, hold.devices),
    )
    if lock_accounts(session, (accounts.wallet, accounts.holds))[accounts.wallet] < amount:
        return False
    hold.closed_at = None
    hold.release_at = utc_now() + SETTLE_CONFIRMED
    buy(session, hold, accounts, amount)
    return True


def unproven_micro(proven: Proven, stretches: Sequence[Stretch], *, until_ms: int, size: Size) -> int:
    """An upper bound of what may still be charged to a settled hold; zero when every millisecond is proven."""
    if proven.milli_ms >= size.milli * (until_ms - stretches[0].from_ms):
        return 0
    return max(0, worst_until(stretches, until_ms, size) - proven.charged_micro)


def _settled(
    hold: Row[Any],
    stretches: Sequence[Stretch],
    ending: Ending,
    proven: Proven,
    *,
    complete: bool,
    now: datetime,
) -> dict[str, Any]:
    """What the columns of a hold become."""
    until_ms = ending.billable_until_ms(hold.starts_ms, hold.covers_until_ms)
    unproven = unproven_micro(proven, stretches, until_ms=until_ms, size=Size(hold.devices_milli, hold.devices))
    closed = complete or unproven == 0
    kept = 0 if closed else min(unproven, hold.amount_micro)
    waits = ending.ends is None and ending.host_lost
    windows = ending.last_windows
    return {
        "allocation_id": hold.allocation_id,
        "generation": hold.generation,
        "billable_until_ms": until_ms,
        "release_at": now + (SETTLE_UNCONFIRMED if waits else SETTLE_CONFIRMED),
        "last_boot_ids": [boot_id for boot_id, _ in windows] or None,
        "last_sequences": [sequence for _, sequence in windows] or None,
        "amount_micro": kept,
        "steps": hold.steps + (kept < hold.amount_micro),
        "closed_at": now if closed else None,
    }


def _is_complete(ending: Ending, arrived: Collection[tuple[int, str, int]]) -> bool:
    """The end is known, and no more proof can come."""
    windows = {(ending.allocation_id, *window) for window in ending.last_windows}
    return ending.ends is not None and windows <= set(arrived)


def _returns(session: Session, amounts: Sequence[tuple[Row[Any], str, int]]) -> list[Transaction]:
    owners: set[Owner] = {(hold.customer_id, currency) for hold, currency, _ in amounts}
    accounts = accounts_of(session, owners)
    transactions = []
    for hold, currency, amount in amounts:
        own = accounts[hold.customer_id, currency]
        key = HoldKey(hold.allocation_id, hold.generation, hold.customer_id)
        pair = own.holds, own.wallet
        transactions.append(transfer(key, JournalKind.HOLD_RELEASE, hold.steps + 1, pair, amount))
    return transactions


def _ask_proven(pipeline: Pipeline, keys: Collection[Key]) -> Callable[[], Mapping[Key, Proven]]:
    found = pipeline.ask(_PROVEN, {"rows": _keys(keys)})
    return lambda: {(allocation_id, generation): Proven(*sums) for allocation_id, generation, *sums in found.all()}


def _ask_arrived(pipeline: Pipeline, windows: Iterable[_Window]) -> Callable[[], set[_Window]]:
    """Those of the windows (allocation id, boot id, sequence) that a host of the allocation has delivered."""
    rows = [dict(zip(("allocation_id", "boot_id", "sequence"), window, strict=True)) for window in windows]
    if not rows:
        return set
    found = pipeline.ask(_ARRIVED, {"rows": document(rows)})
    return lambda: {(allocation_id, boot_id, sequence) for allocation_id, boot_id, sequence in found.all()}


def _keys(keys: Iterable[Key]) -> str:
    return document([{"allocation_id": allocation_id, "generation": generation} for allocation_id, generation in keys])
