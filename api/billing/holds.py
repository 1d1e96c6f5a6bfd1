"""Holds: the worst case of what runs is set aside before it runs, so that a prepaid wallet never goes below zero.

A hold belongs to one generation of an allocation. It is bought in steps of minutes (one journal transaction each),
shrinks as usage is charged from it, and what is left goes back when no more proof can come (`api.billing.settlement`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.billing.accounts import Accounts, Owner, accounts_of, customer_accounts, lock_accounts
from api.billing.coverage import Size, cover, worst_micro
from api.billing.journal import Entry, JournalKind, Transaction, post_all
from api.billing.prices import Quote
from api.billing.stretches import following, note, present
from api.billing.tables import Hold, PriceVersion
from api.bulk import document, recordset, types_of
from api.clock import from_ms, to_ms, utc_now
from api.pipeline import send

ACTOR = "controller"
SMALLEST_STEP_MS = 1000
"""A wallet that pays for less more time than this is left alone, so that its end makes no trail of tiny holds."""
AHEAD = 2
"""Disconnect limits that an extension buys."""

_COLUMNS = (
    "allocation_id",
    "generation",
    "customer_id",
    "price_version_id",
    "terms",
    "price_micro_per_gpu_hour",
    "price_from_ms",
    "price_until_ms",
    "devices_milli",
    "devices",
    "starts_ms",
    "covers_until_ms",
    "bought_micro",
    "amount_micro",
    "steps",
)
_INSERT = text(
    f"insert into holds ({', '.join(_COLUMNS)}, environment_id, task_id) select {', '.join(_COLUMNS)},"
    " (select e.id from environments e where e.allocation_id = r.allocation_id limit 1),"
    " (select coalesce(t.array_id, t.id) from tasks t where t.allocation_id = r.allocation_id limit 1)"
    f" from {recordset(**types_of(Hold, _COLUMNS))}"
)


@dataclass(frozen=True, slots=True)
class HoldOrder:
    """A hold to be, for `devices` devices with `devices_milli` thousandths in all."""

    allocation_id: int
    generation: int
    customer_id: int
    price: Quote
    devices_milli: int
    devices: int
    starts_ms: int
    covers_until_ms: int

    @property
    def owner(self) -> Owner:
        return self.customer_id, self.price.currency

    @property
    def price_until_ms(self) -> int | None:
        """Until when the price is kept: for what is paid for at once in any case. None: to the end."""
        kept_for_s = self.price.kept_for_s
        return None if kept_for_s is None else max(self.starts_ms + 1000 * kept_for_s, self.covers_until_ms)

    @property
    def amount_micro(self) -> int:
        """The worst case of its time."""
        return worst_micro(
            self.price.price_micro_per_gpu_hour,
            self.devices_milli,
            self.covers_until_ms - self.starts_ms,
            devices=self.devices,
        )


@dataclass(slots=True)
class Wallets:
    """What is left to spend of locked wallets, credit included, less what was covered since."""

    accounts: Mapping[Owner, Accounts]
    _balances: dict[int, int]

    def cover(self, order: HoldOrder) -> bool:
        """Take a hold's amount from its owner's wallet; False, and nothing is taken, if it does not suffice."""
        amount = order.amount_micro
        if amount == 0:
            return True
        accounts = self.accounts.get(order.owner)
        if accounts is None or self._balances[accounts.wallet] < amount:
            return False
        self._balances[accounts.wallet] -= amount
        return True


def lock_wallets(session: Session, owners: Collection[Owner]) -> Wallets:
    """The wallets from which holds are covered; they stay locked until the transaction ends."""
    accounts = accounts_of(session, owners)
    return Wallets(
        accounts, lock_accounts(session, [a for each in accounts.values() for a in (each.wallet, each.holds)])
    )


def write_holds(session: Session, wallets: Wallets, orders: Sequence[HoldOrder]) -> list[Transaction]:
    """Write holds that `wallets` have covered, in one statement. Answers the journal transactions that go with them,
    which the caller posts.
    """
    if not orders:
        return []
    rows, transactions = [], []
    for order in orders:
        amount = order.amount_micro
        rows.append(_row(order, amount))
        if amount:
            accounts = wallets.accounts[order.owner]
            key = HoldKey(order.allocation_id, order.generation, order.customer_id)
            transactions.append(transfer(key, JournalKind.HOLD, 1, (accounts.wallet, accounts.holds), amount))
    send(session, _INSERT, {"rows": document(rows)})
    return transactions


def extend_hold(
    session: Session,
    allocation: Allocation,
    *,
    until: datetime | None = None,
    now: datetime | None = None,
    exactly: bool = False,
) -> datetime:
    """Move the hold of an allocation's current generation on towards `until`, as far as the balance covers.

    Answers the moment up to which its time is paid for. Cheap to call at every renewal: while more than half of the
    time from now to `until` is covered, it reads one row and writes none. `until` is twice the disconnect limit ahead
    by default, so that the limit itself stays covered at the price of one journal transaction per limit's length.
    `exactly`: `until` is what is needed, and anything short of it is bought, however much is covered already.
    Time without a GPU costs nothing: all of it is paid for.
    """
    now = now or utc_now()
    if not allocation.gpus:
        return until or now + AHEAD * timedelta(seconds=allocation.disconnect_s)
    hold = session.get(Hold, (allocation.id, allocation.generation))
    if hold is None:
        return now
    if hold.billable_until_ms is not None:
        return from_ms(min(hold.billable_until_ms, hold.covers_until_ms))
    now_ms = to_ms(now)
    until_ms = to_ms(until or now + AHEAD * timedelta(seconds=allocation.disconnect_s))
    too_little_ms = until_ms - 1 if exactly else now_ms + (until_ms - now_ms) // 2
    if hold.covers_until_ms <= too_little_ms:
        session.refresh(hold, with_for_update={"key_share": True})
        _extend(session, hold, until_ms)
    return from_ms(hold.covers_until_ms)


@dataclass(frozen=True, slots=True)
class HoldKey:
    """What a hold's journal transactions name."""

    allocation_id: int
    generation: int
    customer_id: int


def transfer(key: HoldKey, kind: JournalKind, step: int, accounts: tuple[int, int], amount: int) -> Transaction:
    """The journal transaction number `step` of a hold: `amount` from the first account to the second."""
    source, target = accounts
    return Transaction(
        customer_id=key.customer_id,
        key=f"hold:{key.allocation_id}:{key.generation}:{step}",
        kind=kind,
        actor=ACTOR,
        postings=(Entry(source, -amount), Entry(target, amount)),
        details={"allocation_id": key.allocation_id, "generation": key.generation},
    )


def key_of(hold: Hold) -> HoldKey:
    return HoldKey(hold.allocation_id, hold.generation, hold.customer_id)


def buy(session: Session, hold: Hold, accounts: Accounts, amount: int) -> None:
    """Add to a hold that the caller has locked, as it has the accounts."""
    if amount > 0:  # else the time is free, or paid for by an earlier step's rounding
        hold.steps += 1
        hold.bought_micro += amount
        hold.amount_micro += amount
        pair = accounts.wallet, accounts.holds
        post_all(session, [transfer(key_of(hold), JournalKind.HOLD, hold.steps, pair, amount)])
    session.flush()


def _row(order: HoldOrder, amount: int) -> dict[str, int | str | None]:
    return {
        "allocation_id": order.allocation_id,
        "generation": order.generation,
        "customer_id": order.customer_id,
        "price_version_id": order.price.price_version_id,
        "terms": order.price.terms,
        "price_micro_per_gpu_hour": order.price.price_micro_per_gpu_hour,
        "price_from_ms": order.starts_ms,
        "price_until_ms": order.price_until_ms,
        "devices_milli": order.devices_milli,
        "devices": order.devices,
        "starts_ms": order.starts_ms,
        "covers_until_ms": order.covers_until_ms,
        "bought_micro": amount,
        "amount_micro": amount,
        "steps": 1 if amount else 0,
    }


def _extend(session: Session, hold: Hold, until_ms: int) -> None:
    currency = session.get_one(PriceVersion, hold.price_version_id).currency
    accounts = customer_accounts(session, hold.customer_id, currency)
    wallet = lock_accounts(session, (accounts.wallet, accounts.holds))[accounts.wallet]
    coverage = cover(
        present(hold),
        earlier_micro=hold.earlier_micro,
        budget_micro=wallet + hold.bought_micro,
        until_ms=until_ms,
        size=Size(hold.devices_milli, hold.devices),
        following=following(session, hold),
    )
    gained_ms = coverage.covers_until_ms - hold.covers_until_ms
    if gained_ms <= 0 or (coverage.covers_until_ms < until_ms and gained_ms < SMALLEST_STEP_MS):
        return
    note(session, hold, coverage)
    buy(session, hold, accounts, coverage.bought_micro - hold.bought_micro)
