"""Ledger accounts: a customer's six, and the order in which they are locked."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.tables import Account
from api.bulk import document, insert_statement, recordset
from api.ids import new_uid

Owner = tuple[int, str]  # (customer id, currency)

_FIND = text(
    "select a.customer_id, a.currency, a.kind, a.id from accounts a"
    f" join {recordset(customer_id='bigint', currency='text')} using (customer_id, currency)"
)
_LOCK = text(
    "select id, balance_micro + credit_limit_micro as left_micro from accounts where id = any(:ids)"
    " order by id for no key update"
)


class AccountKind(StrEnum):
    FUNDING = "funding"
    WALLET = "wallet"
    HOLDS = "holds"
    REVENUE = "revenue"
    PROMOTIONS = "promotions"
    ADJUSTMENTS = "adjustments"


@dataclass(frozen=True, slots=True)
class Accounts:
    """The ids of one customer's accounts in one currency."""

    funding: int
    wallet: int
    holds: int
    revenue: int
    promotions: int
    adjustments: int


def customer_accounts(session: Session, customer_id: int, currency: str) -> Accounts:
    """A customer's accounts, made where they are missing."""
    owner = (customer_id, currency)
    return accounts_of(session, {owner})[owner]


def accounts_of(session: Session, owners: Collection[Owner]) -> Mapping[Owner, Accounts]:
    """The accounts of several owners, made where they are missing."""
    if not owners:
        return {}
    found = _find(session, owners)
    missing = [
        {"uid": new_uid(), "customer_id": owner[0], "kind": kind, "currency": owner[1]}
        for owner in sorted(owners)
        for kind in AccountKind
        if kind not in found.get(owner, {})
    ]
    if missing:
        make = insert_statement(Account, tuple(missing[0]), "on conflict do nothing")
        session.execute(make, {"rows": document(missing)})
        found = _find(session, owners)
    return {owner: Accounts(**{str(kind): ids[kind] for kind in AccountKind}) for owner, ids in found.items()}


def _find(session: Session, owners: Collection[Owner]) -> dict[Owner, dict[AccountKind, int]]:
    rows = [{"customer_id": customer_id, "currency": currency} for customer_id, currency in sorted(owners)]
    found: dict[Owner, dict[AccountKind, int]] = {}
    for customer_id, currency, kind, account_id in session.execute(_FIND, {"rows": document(rows)}):
        found.setdefault((customer_id, currency), {})[AccountKind(kind)] = account_id
    return found


def lock_accounts(session: Session, account_ids: Iterable[int]) -> dict[int, int]:
    """Lock accounts in the order of their ids, the last locks that a transaction takes.

    Answers what can be taken from each before the database refuses: its balance and, of a wallet, its credit.
    """
    ids = sorted(set(account_ids))
    return {account_id: left for account_id, left in session.execute(_LOCK, {"ids": ids})} if ids else {}
