"""Ledger accounts: a customer's four, and the order in which they are locked."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.billing.tables import Account


class AccountKind(StrEnum):
    FUNDING = "funding"
    WALLET = "wallet"
    HOLDS = "holds"
    REVENUE = "revenue"


@dataclass(frozen=True, slots=True)
class Accounts:
    """The ids of one customer's accounts in one currency."""

    funding: int
    wallet: int
    holds: int
    revenue: int


def customer_accounts(session: Session, customer_id: int, currency: str) -> Accounts:
    """A customer's accounts, made where they are missing."""
    ids = _find(session, customer_id, currency)
    if len(ids) < len(AccountKind):
        rows = [{"customer_id": customer_id, "kind": kind, "currency": currency} for kind in AccountKind]
        session.execute(insert(Account).on_conflict_do_nothing(), rows)
        ids = _find(session, customer_id, currency)
    return Accounts(**{str(kind): ids[kind] for kind in AccountKind})


def _find(session: Session, customer_id: int, currency: str) -> dict[AccountKind, int]:
    query = select(Account.kind, Account.id).where(Account.customer_id == customer_id, Account.currency == currency)
    return {AccountKind(kind): account_id for kind, account_id in session.execute(query)}


def lock_accounts(session: Session, account_ids: Iterable[int]) -> dict[int, Account]:
    """Lock accounts in the order of their ids, the last locks that a transaction takes."""
    query = (
        select(Account)
        .where(Account.id.in_(sorted(set(account_ids))))
        .order_by(Account.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return {account.id: account for account in session.scalars(query)}
