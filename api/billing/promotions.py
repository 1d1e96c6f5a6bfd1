"""Promotion credit: money that the platform gives, to be spent by a day.

It lies in the wallet like all other money, and is spent before it, the credit that lapses first before the others.
What is left of each follows from what was charged since its row was last written, so that a charge writes nothing
here: rows are written when credit is given and when it lapses, under the locks of the customer's accounts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from api.billing.accounts import Owner
from api.billing.funds import Funds, lock_funds
from api.billing.journal import Entry, JournalKind, Transaction, currency_of, post, post_all
from api.billing.open_credits import Credit, read_credits
from api.billing.tables import Promotion
from api.bulk import update_rows
from api.clock import utc_now
from api.ids import new_uid
from api.pagination import page_rows
from scheduler.credits import keep

ACTOR = "controller"
LAPSE_LIMIT = 500
"""Customers whose credit lapses in one transaction, at most."""

_CUSTOMER = text("select id from customers where id = :id for key share")
_DUE = text(
    "select customer_id, currency from promotions where closed_at is null and expires_at <= :now"
    " group by customer_id, currency order by min(looked_at), customer_id limit :most"
)


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a promotion, in micro-units."""

    promotion: Promotion
    left_micro: int


def grant(
    session: Session,
    *,
    customer_id: int,
    amount_micro: int,
    expires_at: datetime,
    actor: str,
    note: str = "",
    now: datetime | None = None,
) -> Promotion:
    """Give a customer credit until a moment.

    Raises:
        ValueError: the amount is not positive, or the moment has passed.
    """
    now = now or utc_now()
    if amount_micro <= 0 or expires_at <= now:
        raise ValueError("a promotion must be positive, and end in the future")
    session.execute(_CUSTOMER, {"id": customer_id})  # before the accounts: the new row refers to it
    owner = customer_id, currency_of(session, customer_id)
    funds = lock_funds(session, [owner])[owner]
    # All that are open are written as of one moment, so that this one pays for nothing that was charged before.
    update_rows(
        session, Promotion, ("id",), [_as_of(funds, credit, credit.left_micro, now) for credit in funds.credits]
    )
    promotion = Promotion(
        uid=new_uid(),
        customer_id=customer_id,
        currency=owner[1],
        amount_micro=amount_micro,
        left_micro=amount_micro,
        revenue_seen_micro=funds.revenue_micro,
        expires_at=expires_at,
        note=note,
    )
    session.add(promotion)
    session.flush()
    accounts = funds.accounts
    given = Transaction(
        customer_id=customer_id,
        key=f"promotion:{promotion.id}",
        kind=JournalKind.PROMOTION,
        actor=actor,
        postings=(Entry(accounts.promotions, -amount_micro), Entry(accounts.wallet, amount_micro)),
        details={"promotion": str(promotion.uid), **({"note": note} if note else {})},
    )
    post(session, given)
    return promotion


def lapse(session: Session, now: datetime) -> int:
    """Take back what is unspent of credit whose day has come, of LAPSE_LIMIT customers. Answers how many credits ended.

    What is held for what runs at that moment stays until it is charged or given back.
    """
    owners: list[Owner] = [
        (row.customer_id, row.currency) for row in session.execute(_DUE, {"now": now, "most": LAPSE_LIMIT})
    ]
    rows: list[dict[str, Any]] = []
    transactions: list[Transaction] = []
    for owner, funds in lock_funds(session, owners).items():
        changed, back = _lapse(owner, funds, now)
        rows += changed
        transactions += back
    post_all(session, transactions)
    update_rows(session, Promotion, ("id",), rows)
    return sum(row["closed_at"] is not None for row in rows)


def promotions_page(
    session: Session, customer_id: int, *, cursor: str | None, limit: int
) -> tuple[list[Left], str | None]:
    """A customer's promotions with what is left of each, newest first."""
    query = select(Promotion).where(Promotion.customer_id == customer_id)
    rows, following = page_rows(session, query, key=Promotion.id, cursor=cursor, limit=limit)
    owner = customer_id, currency_of(session, customer_id)
    left = {credit.id: credit.left_micro for credit in read_credits(session, [owner]).get(owner, ())}
    return [_left(row, left) for row in rows], following


def _left(row: Row[Any], left: Mapping[int, int]) -> Left:
    promotion: Promotion = row.Promotion
    return Left(promotion, left.get(promotion.id, promotion.left_micro))


def _lapse(owner: Owner, funds: Funds, now: datetime) -> tuple[list[dict[str, Any]], Sequence[Transaction]]:
    """What becomes of an owner's open credits, due or not: all are written as of the same charge."""
    due = [credit for credit in funds.credits if credit.expires_at <= now]
    kept = dict(zip((credit.id for credit in due), keep([c.left_micro for c in due], funds.held_micro), strict=True))
    free = max(0, funds.wallet_micro + funds.credit_limit_micro)
    rows, transactions = [], []
    for credit in funds.credits:
        taken = min(free, credit.left_micro - kept.get(credit.id, credit.left_micro))
        free -= taken
        left = credit.left_micro - taken
        rows.append(_as_of(funds, credit, left, now))
        if taken:
            transactions.append(_back(owner, funds, credit, taken))
    return rows, transactions


def _as_of(funds: Funds, credit: Credit, left_micro: int, now: datetime) -> dict[str, Any]:
    return {
        "id": credit.id,
        "left_micro": left_micro,
        "revenue_seen_micro": funds.revenue_micro,
        "looked_at": now,
        "closed_at": None if left_micro else now,
    }


def _back(owner: Owner, funds: Funds, credit: Credit, taken: int) -> Transaction:
    accounts = funds.accounts
    return Transaction(
        customer_id=owner[0],
        key=f"promotion:{credit.id}:lapse:{credit.left_micro}",  # less each time
        kind=JournalKind.PROMOTION_LAPSE,
        actor=ACTOR,
        postings=(Entry(accounts.wallet, -taken), Entry(accounts.promotions, taken)),
        details={"promotion_id": credit.id},
    )
