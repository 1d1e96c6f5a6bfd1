"""Heads: the end of a customer's chain at a moment, signed for a period."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.billing.chain.canonical import Value
from api.billing.chain.keys import signer
from api.billing.chain.month import Month
from api.billing.chain.sealing import lock_chain, tail
from api.billing.chain.tables import UsageHead
from api.clock import to_ms
from api.settings import Settings
from api.tenants.tables import Customer

CLOSES_AFTER = timedelta(minutes=15)
"""After a month's end: what was posted in it has been committed by then, whichever transaction it waited in."""


def is_over(period: Month, now: datetime) -> bool:
    return now >= period.end + CLOSES_AFTER


def closing_head(session: Session, customer_id: int, period: Month) -> UsageHead | None:
    """The head that closed a period, if it is closed."""
    return session.scalar(
        select(UsageHead).where(
            UsageHead.customer_id == customer_id, UsageHead.period == str(period), UsageHead.closed.is_(True)
        )
    )


def sign_head(session: Session, settings: Settings, customer_id: int, period: Month, *, now: datetime) -> UsageHead:
    """The head of a period over all that is sealed by now. For a period that is over, it closes it, once and for good.

    The caller has sealed what there was. The same end of the chain is signed once.
    """
    lock_chain(session, customer_id)
    closed = is_over(period, now)
    if closed and (found := closing_head(session, customer_id, period)):
        return found
    end = tail(session, customer_id)
    latest = session.scalar(
        select(UsageHead)
        .where(UsageHead.customer_id == customer_id, UsageHead.period == str(period))
        .order_by(UsageHead.id.desc())
        .limit(1)
    )
    if latest is not None and (latest.sequence, latest.closed) == (end.sequence, closed):
        return latest
    key = signer(session, settings)
    head = UsageHead(
        customer_id=customer_id,
        period=str(period),
        sequence=end.sequence,
        hash=end.hash,
        closed=closed,
        signed_ms=max(to_ms(now), end.sealed_ms),
        key_id=key.id,
    )
    customer = session.scalars(select(Customer.uid).where(Customer.id == customer_id)).one()
    head.signature = key.sign_head(head_body(head, customer=str(customer), kid=key.kid))
    session.add(head)
    session.flush()
    return head


def head_body(head: UsageHead, *, customer: str, kid: str) -> dict[str, Value]:
    """What a head's signature covers."""
    return {
        "closed": head.closed,
        "customer": customer,
        "hash": head.hash.hex(),
        "key": kid,
        "period": head.period,
        "sequence": head.sequence,
        "signed_ms": head.signed_ms,
    }
