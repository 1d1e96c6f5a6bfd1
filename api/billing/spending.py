"""What customers spend at present: what runs for them and costs, and what is left to pay it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from api.clock import from_ms, to_ms
from scheduler.run_time import Leaver, Spender, lasts_until_ms
from scheduler.states import AllocationState

PLATFORM_WARNINGS_S = (86_400, 3600, 600)
"""Run time left, in seconds, at which every customer is warned."""
_RETURNS_WITHIN = timedelta(seconds=60)
"""An end that takes longer beyond its grace is one of a host that does not answer: nothing of it is counted on."""

# Whoever has money for longer than any warning of theirs looks ahead is left out, unless a warning of theirs is open.
_SPENDING = text(
    "with rates as (select h.customer_id, sum(h.price_micro_per_gpu_hour::numeric * h.devices_milli) as rate"
    " from holds h where h.closed_at is null and h.billable_until_ms is null"
    " and (cast(:ids as bigint[]) is null or h.customer_id = any(:ids)) group by h.customer_id),"
    " short as (select c.id, c.warn_before_s, w.balance_micro + w.credit_limit_micro as left_micro"
    " from rates r join customers c on c.id = r.customer_id"
    " join accounts w on w.customer_id = c.id and w.currency = c.currency and w.kind = 'wallet'"
    " where r.rate > 0 and (cast(:ids as bigint[]) is not null"
    " or (w.balance_micro + w.credit_limit_micro) * 3600000::numeric <= r.rate * greatest(:longest_s, coalesce("
    "(select max(own) from unnest(c.warn_before_s) own), 0))"
    " or exists (select from balance_warnings b where b.customer_id = c.id and b.cleared_at is null)))"
    " select s.id as customer_id, s.warn_before_s, s.left_micro, h.allocation_id, h.covers_until_ms,"
    " h.price_micro_per_gpu_hour * h.devices_milli as rate, a.state, a.releasing_at,"
    " coalesce(a.grace_s, :grace_s) as grace_s"
    " from short s join holds h on h.customer_id = s.id"
    " join allocations a on a.id = h.allocation_id and a.generation = h.generation"
    " where h.closed_at is null and h.billable_until_ms is null"
    " order by s.id, a.preemptible desc, a.priority, a.placed_at desc, a.id desc"
)


@dataclass(frozen=True, slots=True)
class Spending:
    """One customer's, in micro-units of their currency. `spenders` are in the order in which they are ended."""

    customer_id: int
    warn_before_s: tuple[int, ...]
    left_micro: int
    spenders: tuple[Spender, ...]
    leavers: tuple[Leaver, ...]

    @property
    def rate(self) -> int:
        return sum(each.rate for each in self.spenders)

    def runs_out_at(self, now: datetime) -> datetime | None:
        """Until when all that runs is paid for; None: nothing of it costs anything."""
        budget = self.left_micro + sum(leaver.returns_micro for leaver in self.leavers)
        until_ms = lasts_until_ms(budget, self.spenders, now_ms=to_ms(now))
        return None if until_ms is None else from_ms(min(until_ms, to_ms(now + _FAR)))


_FAR = timedelta(days=36_500)


def load_spending(
    session: Session, *, grace_s: int, now: datetime, customer_ids: Sequence[int] | None = None
) -> list[Spending]:
    """Of those customers, or of all whose money may not last for as long as they want to be warned ahead, by id.

    `grace_s` is the platform's own, for what has none. Read without locks.
    """
    values = {
        "ids": None if customer_ids is None else list(customer_ids),
        "longest_s": max(PLATFORM_WARNINGS_S),
        "grace_s": grace_s,
    }
    rows = session.execute(_SPENDING, values)
    return [_spending(list(group), now) for _, group in groupby(rows, key=lambda row: row.customer_id)]


def _spending(rows: Sequence[Row[Any]], now: datetime) -> Spending:
    first = rows[0]
    leaving = [row for row in rows if row.state == AllocationState.RELEASING]
    return Spending(
        customer_id=first.customer_id,
        warn_before_s=tuple(first.warn_before_s),
        left_micro=first.left_micro,
        spenders=tuple(
            Spender(row.allocation_id, row.rate, row.covers_until_ms, row.grace_s * 1000)
            for row in rows
            if row.state in (AllocationState.PLACING, AllocationState.ACTIVE)
        ),
        leavers=tuple(leaver for row in leaving if (leaver := _leaver(row, now)) is not None),
    )


def _leaver(row: Row[Any], now: datetime) -> Leaver | None:
    ends = row.releasing_at + timedelta(seconds=row.grace_s)
    return None if now > ends + _RETURNS_WITHIN else Leaver(row.rate, row.covers_until_ms, to_ms(ends))
