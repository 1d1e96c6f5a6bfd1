"""Money that moves by a person's word: refund, transfer between customers, adjustment, credit limit.

Each decides under the locks of the accounts that it posts to, and needs no other lock: of two at once the second one
sees what the first has left, and so does a placing.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from api.billing.accounts import Owner
from api.billing.funds import Funds, lock_funds
from api.billing.journal import Entry, JournalKind, Posted, Transaction, currency_of, post, post_all
from api.billing.tables import Account
from api.ids import new_uid


class MovementError(Exception):
    """It may not be moved. The words name the most that may be."""


class TooMuchError(MovementError):
    """There is less that may leave."""


class CurrenciesDifferError(MovementError):
    """The two customers' money is not the same."""


class OwedError(MovementError):
    """The customer owes more than that already."""


def refund(session: Session, *, customer_id: int, amount_micro: int, actor: str, note: str = "") -> Posted:
    """Give back what a customer has paid in, as far as it is free.

    Raises:
        TooMuchError
        ValueError: the amount is not positive.
    """
    _check_positive(amount_micro)
    owner = _owner(session, customer_id)
    funds = lock_funds(session, [owner])[owner]
    _check_refundable(funds, amount_micro, owner)
    transaction = Transaction(
        customer_id=customer_id,
        key=f"refund:{customer_id}:{new_uid()}",
        kind=JournalKind.REFUND,
        actor=actor,
        postings=_pair(funds.accounts.wallet, funds.accounts.funding, amount_micro),
        details=_note(note),
    )
    return post(session, transaction)


def transfer_between(
    session: Session, *, source_id: int, target_id: int, amount_micro: int, actor: str, note: str = ""
) -> tuple[Posted, Posted]:
    """Move what one customer has paid in to another, to whom it is as if they had paid it in themselves.

    A journal transaction each, since a customer's accounts sum to zero.

    Raises:
        TooMuchError, CurrenciesDifferError
        ValueError: the amount is not positive, or both are the same customer.
    """
    _check_positive(amount_micro)
    if source_id == target_id:
        raise ValueError("a transfer must be between two customers")
    source, target = _owner(session, source_id), _owner(session, target_id)
    if source[1] != target[1]:
        raise CurrenciesDifferError(f"One customer has {source[1]}, the other {target[1]}.")
    funds = lock_funds(session, [source, target])
    _check_refundable(funds[source], amount_micro, source)
    giver, taker = funds[source].accounts, funds[target].accounts
    key, details = f"transfer:{source_id}:{new_uid()}", _note(note)
    out = Transaction(
        customer_id=source_id,
        key=f"{key}:out",
        kind=JournalKind.TRANSFER_OUT,
        actor=actor,
        postings=_pair(giver.wallet, giver.funding, amount_micro),
        details={**details, "customer_id": target_id},
    )
    into = Transaction(
        customer_id=target_id,
        key=f"{key}:in",
        kind=JournalKind.TRANSFER_IN,
        actor=actor,
        postings=_pair(taker.funding, taker.wallet, amount_micro),
        details={**details, "customer_id": source_id},
    )
    made = post_all(session, [out, into])
    return made[out.key], made[into.key]


def adjust(session: Session, *, customer_id: int, amount_micro: int, actor: str, reason: str) -> Posted:
    """Give a customer an amount, or take it if it is negative.

    Raises:
        TooMuchError: that much is not there to be taken.
        ValueError: the amount is zero.
    """
    if amount_micro == 0:
        raise ValueError("an adjustment must not be zero")
    owner = _owner(session, customer_id)
    funds = lock_funds(session, [owner])[owner]
    if -amount_micro > funds.deductible_micro:
        raise TooMuchError(f"At most {funds.deductible_micro} micro-units of {owner[1]} can be taken.")
    transaction = Transaction(
        customer_id=customer_id,
        key=f"adjustment:{customer_id}:{new_uid()}",
        kind=JournalKind.ADJUSTMENT,
        actor=actor,
        postings=_pair(funds.accounts.adjustments, funds.accounts.wallet, amount_micro),
        details=_note(reason),
    )
    return post(session, transaction)


def set_credit_limit(session: Session, *, customer_id: int, limit_micro: int) -> None:
    """How far below zero a customer's wallet may go: more than zero for those who pay afterwards.

    Raises:
        OwedError: the wallet is lower than that already.
    """
    owner = _owner(session, customer_id)
    funds = lock_funds(session, [owner])[owner]
    if funds.wallet_micro + limit_micro < 0:
        raise OwedError(f"The customer owes {-funds.wallet_micro} micro-units of {owner[1]} already.")
    wallet = update(Account).where(Account.id == funds.accounts.wallet)
    session.execute(wallet.values(credit_limit_micro=limit_micro).execution_options(synchronize_session=False))


def _owner(session: Session, customer_id: int) -> Owner:
    return customer_id, currency_of(session, customer_id)


def _check_positive(amount_micro: int) -> None:
    if amount_micro <= 0:
        raise ValueError("the amount must be positive")


def _check_refundable(funds: Funds, amount_micro: int, owner: Owner) -> None:
    most = funds.refundable_micro
    if amount_micro > most:
        raise TooMuchError(f"At most {most} micro-units of {owner[1]} were paid in and are free.")


def _pair(source: int, target: int, amount_micro: int) -> tuple[Entry, Entry]:
    return Entry(source, -amount_micro), Entry(target, amount_micro)


def _note(words: str) -> Mapping[str, Any]:
    return {"note": words} if words else {}
