"""The double-entry journal: the only code that changes an account's balance.

Amounts are integer micro-units of the accounts' currency. A posting's amount is added to its account's balance; the
postings of a transaction sum to zero.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.billing.accounts import customer_accounts, lock_accounts
from api.billing.tables import Account, JournalTransaction, Posting
from api.bulk import document, insert_rows, insert_statement, recordset
from api.ids import new_uid
from api.pipeline import pipelined
from api.tenants.tables import Customer

_TAIL = "on conflict (key) do nothing returning key, id, uid"
_ADD = text(
    "update accounts a set balance_micro = a.balance_micro + r.amount_micro"
    f" from {recordset(id='bigint', amount_micro='bigint')} where a.id = r.id"
)


class JournalKind(StrEnum):
    TOP_UP = "top_up"  # funding -> wallet
    HOLD = "hold"  # wallet -> holds
    HOLD_RELEASE = "hold_release"  # holds -> wallet
    USAGE = "usage"  # holds -> revenue
    REFUND = "refund"  # wallet -> funding
    TRANSFER_OUT = "transfer_out"  # wallet -> funding: what another customer gets,
    TRANSFER_IN = "transfer_in"  # funding -> wallet: as if they had paid it in
    ADJUSTMENT = "adjustment"  # adjustments -> wallet, or back
    PROMOTION = "promotion"  # promotions -> wallet
    PROMOTION_LAPSE = "promotion_lapse"  # wallet -> promotions


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
    """`balance_micro` is all of a customer's money, negative where they owe it.

    `available_micro` is what they may still spend: what is not held for running work, and what they may owe.
    """

    currency: str
    balance_micro: int
    held_micro: int
    available_micro: int
    credit_limit_micro: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """A journal transaction to be, on one customer's accounts. `key` names its cause: the same one is posted once."""

    customer_id: int
    key: str
    kind: JournalKind
    actor: str
    postings: Sequence[Entry]
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    id: int
    uid: UUID


def post_all(session: Session, transactions: Sequence[Transaction]) -> dict[str, Posted]:
    """Write journal transactions and move the balances with them. Answers those that are new, by key.

    The others were posted before, and change nothing.

    Raises:
        UnbalancedError: the postings of one do not sum to zero.
        sqlalchemy.exc.IntegrityError: a wallet or a holds account would go below zero.
    """
    session.flush()  # what postings refer to
    for each in transactions:
        if sum(entry.amount_micro for entry in each.postings) != 0:
            raise UnbalancedError(f"the postings of {each.key} do not sum to zero")
    if not transactions:
        return {}
    rows = [_row(each) for each in transactions]
    inserted = session.execute(insert_statement(JournalTransaction, tuple(rows[0]), _TAIL), {"rows": document(rows)})
    made = {key: Posted(transaction_id, uid) for key, transaction_id, uid in inserted}
    entries = [(made[each.key].id, entry) for each in transactions if each.key in made for entry in each.postings]
    postings = [
        {
            "transaction_id": transaction_id,
            "account_id": entry.account_id,
            "amount_micro": entry.amount_micro,
            "meter_id": entry.meter_id,
            "duration_ms": entry.duration_ms,
        }
        for transaction_id, entry in entries
    ]
    amounts: Counter[int] = Counter()
    for _, entry in entries:
        amounts[entry.account_id] += entry.amount_micro
    lock_accounts(session, amounts)
    balances = [{"id": account_id, "amount_micro": amount} for account_id, amount in sorted(amounts.items())]
    with pipelined(session):
        session.execute(_ADD, {"rows": document(balances)})
        insert_rows(session, Posting, postings)
    return made


def post(session: Session, transaction: Transaction) -> Posted:
    """One of them: a repeated key answers the transaction that is there."""
    if (made := post_all(session, [transaction]).get(transaction.key)) is not None:
        return made
    known = select(JournalTransaction.id, JournalTransaction.uid).where(JournalTransaction.key == transaction.key)
    return Posted(*session.execute(known).one())


def _row(transaction: Transaction) -> dict[str, Any]:
    return {
        "uid": new_uid(),
        "customer_id": transaction.customer_id,
        "key": transaction.key,
        "kind": transaction.kind,
        "actor": transaction.actor,
        "details": transaction.details or {},
    }


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
) -> Posted:
    """Move an amount from one account to another."""
    postings = [Entry(source, -amount_micro), Entry(target, amount_micro)]
    return post(session, Transaction(customer_id, key, kind, actor, postings, details))


def top_up(session: Session, *, customer_id: int, amount_micro: int, actor: str, key: str, note: str = "") -> Posted:
    """Add prepaid money to a customer's wallet, in their currency. `key` is unique among the customer's top-ups.

    Raises:
        ValueError: the amount is not positive.
    """
    if amount_micro <= 0:
        raise ValueError("a top-up must be positive")
    accounts = customer_accounts(session, customer_id, currency_of(session, customer_id))
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
    currency = currency_of(session, customer_id)
    query = select(Account.kind, Account.balance_micro, Account.credit_limit_micro).where(
        Account.customer_id == customer_id, Account.currency == currency, Account.kind.in_(("wallet", "holds"))
    )
    found = {kind: (amount, limit) for kind, amount, limit in session.execute(query)}
    (wallet, limit), (held, _) = found.get("wallet", (0, 0)), found.get("holds", (0, 0))
    return Balance(currency, wallet + held, held, wallet + limit, limit)


def currency_of(session: Session, customer_id: int) -> str:
    return session.scalars(select(Customer.currency).where(Customer.id == customer_id)).one()
