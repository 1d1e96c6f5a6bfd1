"""Warnings of an ending balance: one row for each threshold and spell, raised and cleared by the controller.

A spell begins when the money lasts no longer than the threshold for what runs, and ends when it lasts clearly longer
again. While nothing runs, nothing begins or ends.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from api.billing.spending import PLATFORM_WARNINGS_S, Spending, load_spending
from api.billing.tables import BalanceWarning
from api.bulk import document, insert_statement, recordset
from api.ids import new_uid
from api.pagination import page_rows
from api.tenants.tables import Customer

_OPEN = text(
    "select customer_id, threshold_s from balance_warnings where customer_id = any(:ids) and cleared_at is null"
)
_CLEARED = text(
    "update balance_warnings w set cleared_at = cast(:now as timestamptz)"
    f" from {recordset(customer_id='bigint', threshold_s='int')}"
    " where w.customer_id = r.customer_id and w.threshold_s = r.threshold_s and w.cleared_at is null"
)
_TAIL = "on conflict (customer_id, threshold_s) where cleared_at is null do nothing"


def warn(session: Session, *, grace_s: int, now: datetime) -> int:
    """Raise and clear the warnings of all customers. Answers how many were raised. `grace_s` as for `load_spending`."""
    found = load_spending(session, grace_s=grace_s, now=now)
    known = _open(session, [spending.customer_id for spending in found])
    raised, cleared = [], []
    for spending in found:
        runs_out_at = spending.runs_out_at(now)
        if runs_out_at is None:
            continue
        for threshold_s, begins in _changes(spending, runs_out_at - now, known):
            if begins:
                raised.append(_row(spending, threshold_s, runs_out_at, now))
            else:
                cleared.append({"customer_id": spending.customer_id, "threshold_s": threshold_s})
    if cleared:
        session.execute(_CLEARED, {"rows": document(cleared), "now": now})
    if raised:
        session.execute(insert_statement(BalanceWarning, tuple(raised[0]), _TAIL), {"rows": document(raised)})
    return len(raised)


def set_thresholds(session: Session, customer_id: int, warn_before_s: Sequence[int]) -> None:
    """The run time left, in seconds, at which a customer is warned beside the times at which all are."""
    customer = session.get_one(Customer, customer_id, with_for_update={"key_share": True})
    customer.warn_before_s = sorted(set(warn_before_s) - set(PLATFORM_WARNINGS_S), reverse=True)


def open_warnings(session: Session, customer_id: int) -> Sequence[BalanceWarning]:
    """Those whose spell goes on, the shortest threshold first."""
    query = select(BalanceWarning).where(BalanceWarning.customer_id == customer_id, BalanceWarning.cleared_at.is_(None))
    return session.scalars(query.order_by(BalanceWarning.threshold_s)).all()


def warnings_page(
    session: Session, customer_id: int, *, cursor: str | None, limit: int
) -> tuple[list[Row[Any]], str | None]:
    """All that a customer had, newest first."""
    query = select(BalanceWarning).where(BalanceWarning.customer_id == customer_id)
    return page_rows(session, query, key=BalanceWarning.id, cursor=cursor, limit=limit)


def _open(session: Session, customer_ids: Sequence[int]) -> set[tuple[int, int]]:
    rows = session.execute(_OPEN, {"ids": customer_ids})
    return {(row.customer_id, row.threshold_s) for row in rows}


def _changes(spending: Spending, left: timedelta, known: set[tuple[int, int]]) -> Iterator[tuple[int, bool]]:
    """The thresholds whose spell begins (True) or ends. One that is no threshold of theirs any more ends too."""
    thresholds = {*PLATFORM_WARNINGS_S, *spending.warn_before_s}
    opened = {threshold_s for customer_id, threshold_s in known if customer_id == spending.customer_id}
    for threshold_s in sorted(thresholds | opened):
        threshold = timedelta(seconds=threshold_s)
        if threshold_s in opened:
            # A tenth more: less would be no end, but the coming and going of what runs.
            if 10 * left > 11 * threshold or threshold_s not in thresholds:
                yield threshold_s, False
        elif left <= threshold:
            yield threshold_s, True


def _row(spending: Spending, threshold_s: int, runs_out_at: datetime, now: datetime) -> dict[str, Any]:
    return {
        "uid": new_uid(),
        "customer_id": spending.customer_id,
        "threshold_s": threshold_s,
        "raised_at": now,
        "runs_out_at": runs_out_at,
    }
