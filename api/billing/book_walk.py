"""The continuous check of the books: a walk over accounts, transactions and meters that begins anew at its end.

Each turn takes a bounded number of rows of each and derives what is stored of them. An account's postings are summed
once: `account_checks` keeps how far, which is safe because they get their ids under the account's lock. What was
changed in postings that were summed before, behind the triggers' back, `verify.check` finds: it reads everything.
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from scheduler.money import cumulative_charge_micro

ACCOUNTS, POSTINGS, TRANSACTIONS, METERS = 300, 20_000, 5_000, 500
"""Rows that a turn looks at: accounts, new postings of each, journal transactions, meters."""
MAX_FINDINGS = 100

_ACCOUNTS = text(
    "with slice as (select a.id, a.kind, a.customer_id, a.balance_micro, coalesce(c.posting_id, 0) as posting_id,"
    " coalesce(c.balance_micro, 0) as known_micro"
    " from accounts a left join account_checks c on c.account_id = a.id"
    " where a.id > :after order by a.id limit :accounts),"
    " told as (select s.*, n.last_id, n.number, s.known_micro + coalesce(n.total, 0) as derived_micro"
    " from slice s cross join lateral (select max(id) as last_id, count(*) as number,"
    " sum(amount_micro)::bigint as total from (select id, amount_micro from postings"
    " where account_id = s.id and id > s.posting_id order by id limit :postings) unsummed) n),"
    " noted as (insert into account_checks (account_id, posting_id, balance_micro)"
    " select id, last_id, derived_micro from told where last_id is not null on conflict (account_id)"
    " do update set posting_id = excluded.posting_id, balance_micro = excluded.balance_micro)"
    " select id, kind, customer_id, balance_micro, derived_micro, number < :postings as complete from told order by id"
)
# Of the customers whose accounts these are, in one snapshot.
_CUSTOMERS = text(
    "select a.customer_id, a.currency, sum(a.balance_micro) as total,"
    " coalesce(sum(a.balance_micro) filter (where a.kind = 'holds'), 0) as held,"
    " coalesce((select sum(h.amount_micro) from holds h join price_versions p on p.id = h.price_version_id"
    " where h.customer_id = a.customer_id and p.currency = a.currency and h.closed_at is null), 0) as holds"
    " from accounts a where a.customer_id = any(:ids) group by a.customer_id, a.currency"
)
_TRANSACTIONS = text(
    "select t.id, coalesce(sum(p.amount_micro), 0) as total, count(p.id) as postings from (select id"
    " from journal_transactions where id > :after order by id limit :most) t"
    " left join postings p on p.transaction_id = t.id group by t.id order by t.id"
)
_METERS = text(
    "select m.id, m.milli, m.proven_ms, m.charged_micro, m.price_micro_per_gpu_hour, coalesce(i.total, 0) as total_ms"
    " from (select * from usage_meters where id > :after order by id limit :most) m left join lateral"
    " (select sum(to_ms - from_ms) as total from usage_intervals where meter_id = m.id) i on true order by m.id"
)


@dataclass(slots=True)
class BookWalk:
    """Where the walk is. `wrong` is what the last whole round found, and this one so far, in sentences."""

    rounds: int = 0
    _last: frozenset[str] = frozenset()
    _now: set[str] = field(default_factory=set)
    _after: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("accounts", "transactions", "meters"), 0))
    _ended: set[str] = field(default_factory=set)

    @property
    def wrong(self) -> frozenset[str]:
        return self._last | self._now

    def turn(self, session: Session) -> list[str]:
        """Look at the next rows of each kind. Answers what is wrong with them that `wrong` did not have yet."""
        known = self.wrong
        found = self._accounts(session) + self._transactions(session) + self._meters(session)
        self._now |= set(found[: MAX_FINDINGS - len(self._now)])
        if len(self._ended) == len(self._after):
            self._last, self._now, self._ended = frozenset(self._now), set(), set()
            self.rounds += 1
        return sorted(set(found) - known)

    def _accounts(self, session: Session) -> list[str]:
        values = {"after": self._after["accounts"], "accounts": ACCOUNTS, "postings": POSTINGS}
        rows = session.execute(_ACCOUNTS, values).all()
        self._move("accounts", rows, ACCOUNTS)
        found = [
            f"account {row.id} ({row.kind} of customer {row.customer_id}) has balance {row.balance_micro},"
            f" its postings sum to {row.derived_micro}"
            for row in rows
            if row.complete and row.balance_micro != row.derived_micro
        ]
        customers = session.execute(_CUSTOMERS, {"ids": sorted({row.customer_id for row in rows if row.customer_id})})
        for row in customers:
            if row.total:
                found.append(f"the accounts of customer {row.customer_id} in {row.currency} sum to {row.total}")
            if row.held != row.holds:
                found.append(f"customer {row.customer_id} has {row.held} {row.currency} held, holds for {row.holds}")
        return found

    def _transactions(self, session: Session) -> list[str]:
        values = {"after": self._after["transactions"], "most": TRANSACTIONS}
        rows = session.execute(_TRANSACTIONS, values).all()
        self._move("transactions", rows, TRANSACTIONS)
        return [
            f"journal transaction {row.id} has {row.postings} postings that sum to {row.total}"
            for row in rows
            if row.total or not row.postings
        ]

    def _meters(self, session: Session) -> list[str]:
        rows = session.execute(_METERS, {"after": self._after["meters"], "most": METERS}).all()
        self._move("meters", rows, METERS)
        found = []
        for row in rows:
            if row.proven_ms != row.total_ms:
                found.append(f"meter {row.id} has proven {row.proven_ms} ms, its intervals sum to {row.total_ms}")
            right = cumulative_charge_micro(
                price_micro_per_gpu_hour=row.price_micro_per_gpu_hour, milli=row.milli, duration_ms=row.proven_ms
            )
            if row.charged_micro != right:
                found.append(f"meter {row.id} was charged {row.charged_micro} for {row.proven_ms} ms: {right} is right")
        return found

    def _move(self, kind: str, rows: Any, most: int) -> None:
        """On behind the last row, or to the beginning after the end."""
        if len(rows) < most:
            self._ended.add(kind)
            self._after[kind] = 0
        else:
            self._after[kind] = rows[-1].id
