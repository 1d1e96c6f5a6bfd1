"""The end of what can't be paid for any longer: in order, each with its grace, while its grace is still paid for.

Preemptible before other work, then by priority, the lowest first, then the youngest first. What comes back from one is
spent on the others, which so run on for a while. Should nobody see to it in time, the leases themselves end where their
holds do: nothing runs unpaid.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.billing.holds import extend_hold
from api.billing.spending import Spending, load_spending
from api.clock import to_ms
from api.db import Database
from scheduler.run_time import who_ends
from scheduler.states import AllocationState, EndReason

ACTOR = "controller"
MARGIN = timedelta(seconds=20)
"""Between the order to end and the last moment for it: some turns of the controller, and the host's answer."""
END_LIMIT = 100
"""Ends that are asked for in one turn."""
LONGEST_S = 1.0
"""After so long the controller sees to its other duties; what is left has its next turn in seconds."""
_REASON = "the balance does not last for all that runs"

_log = logging.getLogger(__name__)


def end_unpaid(database: Database, *, grace_s: int, now: datetime) -> int:
    """Ask for the end of what must end now, for a bounded time. Answers how many; each is judged again under its lock.

    `grace_s` is the platform's own, for what has none. The customers take turns: who has much running keeps nobody.
    """
    with database.session() as session:
        found = load_spending(session, grace_s=grace_s, now=now)
    due = sorted((place, each.customer_id, id_) for each in found for place, id_ in enumerate(_due(each, now)))
    began, told = time.monotonic(), 0
    for _, customer_id, allocation_id in due[:END_LIMIT]:
        work = partial(_end_one, customer_id=customer_id, allocation_id=allocation_id, grace_s=grace_s, now=now)
        told += _attempt(database, work, allocation_id)
        if time.monotonic() - began > LONGEST_S:
            break
    return told


def _attempt(database: Database, work: Callable[[Session], bool], allocation_id: int) -> bool:
    """One that fails must not keep the others: the next turn tries it again."""
    try:
        return database.transact(work)
    except Exception:
        _log.exception("allocation %d is not told to end; tried again", allocation_id)
        return False


def _due(spending: Spending, now: datetime) -> list[int]:
    return who_ends(
        spending.left_micro,
        spending.spenders,
        spending.leavers,
        now_ms=to_ms(now),
        margin_ms=round(MARGIN.total_seconds() * 1000),
    )


def _end_one(session: Session, *, customer_id: int, allocation_id: int, grace_s: int, now: datetime) -> bool:
    allocation = session.get_one(Allocation, allocation_id, with_for_update=True)
    if allocation.state not in (AllocationState.PLACING, AllocationState.ACTIVE):
        return False
    spending = load_spending(session, grace_s=grace_s, now=now, customer_ids=[customer_id])
    if not any(allocation_id in _due(each, now) for each in spending):
        return False  # somebody paid, or something else ended
    grace = timedelta(seconds=grace_s if allocation.grace_s is None else allocation.grace_s)
    # Before others spend what it needs, and no more than that: the rest is counted on for them.
    extend_hold(session, allocation, until=now + grace, now=now, exactly=True)
    request_end(session, allocation, end_reason=EndReason.UNPAID, actor=ACTOR, reason=_REASON)
    return True
