"""The controller's part: everybody's usage is sealed once a minute, in turns of bounded size, and months are closed."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text

from api.billing.chain.heads import CLOSES_AFTER, sign_head
from api.billing.chain.month import Month
from api.billing.chain.sealing import MAX_METERS, seal
from api.clock import utc_now
from api.db import Database
from api.settings import Settings

ROUND_S = 60.0
CLOSED_A_ROUND = 500
"""Months that one round closes; the rest is closed by the rounds after it."""
_TURN_S = 0.05
_LOOK_BACK, _FIRST_LOOK_BACK = timedelta(hours=1), timedelta(days=8)

# Proof comes to open holds only. Of those that were closed since the last look, the last of it may not be sealed yet.
_UNSEALED = text(
    "select m.customer_id, array_agg(m.id order by m.id) as meter_ids"
    " from (select allocation_id, generation from holds where closed_at is null"
    " union all select allocation_id, generation from holds where closed_at >= :since) h"
    " join usage_meters m using (allocation_id, generation) left join sealed_meters s on s.meter_id = m.id"
    " where m.proven_ms > coalesce(s.sealed_ms, 0) group by m.customer_id order by m.customer_id"
)
_UNCLOSED = text(
    "select c.id from customers c where not exists (select from usage_heads u"
    " where u.customer_id = c.id and u.period = :period and u.closed)"
    " and exists (select from journal_transactions t where t.customer_id = c.id and t.at < :end)"
    " and exists (select from usage_meters m where m.customer_id = c.id) order by c.id limit :most"
)


class Sealer:
    """`run_once` is called every second or so: it takes a twentieth of a second, and one customer's turn at most.

    What is to be done is found in the database, so that nothing is missed by whoever leads next; a customer whose
    meters no round finds, since nobody led for days, is sealed at the month's close and whenever they export a bill.
    """

    def __init__(self, database: Database, settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._next_round = float("-inf")  # monotonic
        self._since = clock() - _FIRST_LOOK_BACK
        self._waiting: deque[Callable[[], bool]] = deque()

    def run_once(self) -> None:
        """A turn of the round that is due, or nothing."""
        if not self._waiting and time.monotonic() >= self._next_round:
            self._next_round = time.monotonic() + ROUND_S
            self._begin()
        ends = time.monotonic() + _TURN_S
        while self._waiting:
            work = self._waiting.popleft()
            if not work():
                self._waiting.appendleft(work)
            if time.monotonic() >= ends:
                return

    @property
    def resting(self) -> bool:
        """Whether a round has been done."""
        return not self._waiting

    def _begin(self) -> None:
        now = self._clock()
        period = Month.of(now - CLOSES_AFTER)
        last_month = Month.of(period.start - timedelta(days=1))
        with self._database.session() as session:
            unsealed = session.execute(_UNSEALED, {"since": self._since}).all()
            values = {"period": str(last_month), "end": last_month.end, "most": CLOSED_A_ROUND}
            unclosed = session.scalars(_UNCLOSED, values).all()
        self._since = now - _LOOK_BACK
        for customer_id, meter_ids in unsealed:
            batches = (meter_ids[at : at + MAX_METERS] for at in range(0, len(meter_ids), MAX_METERS))
            self._waiting.extend(self._sealing(customer_id, batch) for batch in batches)
        self._waiting.extend(self._closing(customer_id, last_month) for customer_id in unclosed)

    def _sealing(self, customer_id: int, meter_ids: Sequence[int] | None = None) -> Callable[[], bool]:
        return lambda: self._database.transact(lambda session: seal(session, customer_id, meter_ids))

    def _closing(self, customer_id: int, period: Month) -> Callable[[], bool]:
        sealing = self._sealing(customer_id)

        def work() -> bool:
            if not sealing():
                return False
            now = self._clock()
            self._database.transact(lambda session: sign_head(session, self._settings, customer_id, period, now=now))
            return True

        return work
