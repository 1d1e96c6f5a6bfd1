"""The double-entry journal: the only code that changes an account's balance.

Amounts are integer micro-units of the accounts' currency. A posting's amount is added to its account's balance; the
postings of a transaction sum to zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.billing.accounts import customer_accounts, lock_accounts
from api.billing.tables import Account, JournalTransaction, Posting
from api.tenants.tables import Customer


class JournalKind(StrEnum):
    TOP_UP = "top_up"  # funding -> wallet
    HOLD = "hold"  # wallet -> holds
    HOLD_RELEASE = "hold_release"  # holds -> wallet
    USAGE = "usage"  # holds -> revenue


class UnbalancedError(ValueError):
    """The postings do not sum to zero: a mistake in the code that made them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One posting to be. A charge names its meter and the proven time that it pays for."""

    account_id: int
    amount_micro: int
    meter_id: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """`balance_micro` is all of a customer's money: what is held for running work, and what is available."""

    currency: str
    balance_micro: int
    held_micro: int
    available_micro: int


def post(
    session: Session,
    *,
    customer_id: int,
    key: str,
    kind: JournalKind,
    actor: str,
    postings: Sequence[Entry],
    details: dict[str, Any] | None = None,
) -> JournalTransaction:
    """Write a journal transaction on one customer's accounts and move the balances with it; once per `key`.

    A repeated key answers the transaction that is there, and changes nothing.

    Raises:
        UnbalancedError: the postings do not sum to zero.
        sqlalchemy.exc.IntegrityError: a wallet or a holds account would go below zero.
    """
    if sum(entry.amount_micro for entry in postings) != 0:
        raise UnbalancedError(f"the postings of {key} do not sum to zero")
    values = {"customer_id": customer_id, "key": key, "kind": kind, "actor": actor, "details": details or {}}
    made = session.scalars(
        insert(JournalTransaction).values(values).on_conflict_do_nothing().returning(JournalTransaction)
    ).one_or_none()
    if made is None:
        return session.scalars(select(JournalTransaction).where(JournalTransaction.key == key)).one()
    accounts = lock_accounts(session, (entry.account_id for entry in postings))
    for entry in postings:
        accounts[entry.account_id].balance_micro += entry.amount_micro
        session.add(
            Posting(
                transaction_id=made.id,
                account_id=entry.account_id,
                amount_micro=entry.amount_micro,
                meter_id=entry.meter_id,
                duration_ms=entry.duration_ms,
            )
        )
    session.flush()
    return made


def transfer(
    session: Session,
    *,
    customer_id: int,
    key: str,
    kind: JournalKind,
    actor: str,
    source: int,
    target: int,
    amount_micro: int,
    details: dict[str, Any] | None = None,
) -> JournalTransaction:
    """Move an amount from one account to another."""
    postings = [Entry(source, -amount_micro), Entry(target, amount_micro)]
    return post(session, customer_id=customer_id, key=key, kind=kind, actor=actor, postings=postings, details=details)


def top_up(
    session: Session, *, customer_id: int, amount_micro: int, actor: str, key: str, note: str = ""
) -> JournalTransaction:
    """Add prepaid money to a customer's wallet, in their currency. `key` is unique among the customer's top-ups.

    Raises:
        ValueError: the amount is not positive.
    """
    if amount_micro <= 0:
        raise ValueError("a top-up must be positive")
    accounts = customer_accounts(session, customer_id, _currency(session, customer_id))
    return transfer(
        session,
        customer_id=customer_id,
        key=f"top_up:{customer_id}:{key}",
        kind=JournalKind.TOP_UP,
        actor=actor,
        source=accounts.funding,
        target=accounts.wallet,
        amount_micro=amount_micro,
        details={"note": note} if note else None,
    )


def balance(session: Session, customer_id: int) -> Balance:
    """A customer's money in their currency, read without a lock."""
    currency = _currency(session, customer_id)
    query = select(Account.kind, Account.balance_micro).where(
        Account.customer_id == customer_id, Account.currency == currency, Account.kind.in_(("wallet", "holds"))
    )
    found = {kind: amount for kind, amount in session.execute(query)}
    available, held = found.get("wallet", 0), found.get("holds", 0)
    return Balance(currency, available + held, held, available)


def _currency(session: Session, customer_id: int) -> str:
    return session.scalars(select(Customer.currency).where(Customer.id == customer_id)).one()
