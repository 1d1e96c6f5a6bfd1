"""A month's statement over ten million windows, each charged by a posting of its own, as if all had been shipped live.

SQL makes the postings, a journal transaction for every five seconds of an allocation of eight GPUs, and what is kept
beside them. The period begins and ends between full hours. What is timed is what the endpoint does: the totals and the
first page of lines, from the snapshot to the answer.
"""

import time
from datetime import timedelta

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.billing import service
from api.billing.statement import Period
from api.db import Database
from api.metering.service import ingest
from scheduler.host_protocol import UsageBatch
from tests.bench.billing_site import GPUS_PER_HOST, PRICE_MICRO, WINDOW_MS, ledger_server, opened
from tests.bench.figures import Figure, median
from tests.db.ledger_world import World

_WINDOWS = 10_000_000
_ALLOCATIONS = 3
_RUNS = 9
_PAID_MICRO = 10**15
_AMOUNT_MICRO = 3_258  # of a window, more or less: here nobody asks whether it is rounded well
_INDICES = (
    "ix_postings_account_id on postings (account_id)",
    "ix_postings_meter_id on postings (meter_id)",
    "ix_postings_transaction_id on postings (transaction_id)",
)
# The first of each is there already, made as all of them are.
_FILL = (
    "set local session_replication_role = replica",
    """
    create temporary table reported as
    select t.customer_id, t.actor, t.details, t.kind, tick, revenue.account_id as revenue, t.id as first,
        nextval('journal_transactions_id_seq') as id, t.at - :window * tick as at
    from journal_transactions t join postings revenue on revenue.transaction_id = t.id and revenue.meter_id is null
    cross join generate_series(1, :ticks) tick where t.kind = 'usage' order by at
    """,
    """
    insert into journal_transactions (id, uid, customer_id, key, kind, at, actor, details)
    select id, gen_random_uuid(), customer_id, 'filled:' || id, kind, at, actor, details from reported
    """,
    """
    insert into postings (transaction_id, account_id, amount_micro, meter_id, duration_ms)
    select r.id, p.account_id, case when p.meter_id is null then :gpus * :amount else -:amount end, p.meter_id,
        p.duration_ms from reported r join postings p on p.transaction_id = r.first
    """,
    """
    insert into usage_sums (customer_id, hour, meter_id, duration_ms, amount_micro)
    select r.customer_id, date_trunc('hour', r.at, 'UTC'), p.meter_id, sum(p.duration_ms), :amount * count(*)
    from reported r join postings p on p.transaction_id = r.first where p.meter_id is not null group by 1, 2, 3
    on conflict (customer_id, hour, meter_id) do update set duration_ms = usage_sums.duration_ms + excluded.duration_ms,
        amount_micro = usage_sums.amount_micro + excluded.amount_micro
    """,
    """
    update accounts a set balance_micro = a.balance_micro + case a.kind when 'revenue' then 1 else -1 end
        * (select count(*) from reported where customer_id = a.customer_id) * :gpus * :amount
    where kind in ('wallet', 'revenue')
    """,
)


def run() -> list[Figure]:
    with ledger_server() as url, opened(url) as database:
        customer_id = _first_report(database)
        _fill(database)
        with database.session() as session:
            first, last = session.execute(select(text("min(at), max(at) from journal_transactions"))).one()
            postings = session.scalar(text("select count(*) from postings where meter_id is not null"))
        period = Period(first + timedelta(minutes=17), last + timedelta(minutes=1))
        took = [_read(database, customer_id, period) for _ in range(_RUNS)]
    samples = {"s": took, "postings": [float(postings or 0)]}
    return [Figure("a statement over 10 million windows", median(took), "s", 2.0, True, samples)]


def _first_report(database: Database) -> int:
    """Allocations of eight GPUs of one customer, whose id this answers, with one window each."""
    world = World(database)
    customer, price = world.customer(balance_micro=_PAID_MICRO), world.price(PRICE_MICRO)
    for _ in range(_ALLOCATIONS):
        host, gpus = world.host(gpus=GPUS_PER_HOST)
        lease = world.start(customer, price, gpus)
        windows = [
            world.window(lease, lease.starts_ms, lease.starts_ms + WINDOW_MS, gpu=gpu) for gpu in range(GPUS_PER_HOST)
        ]
        ingest(database, host.id, UsageBatch(tuple(windows)))
    return customer.id


def _fill(database: Database) -> None:
    values = {
        "ticks": _WINDOWS // (_ALLOCATIONS * GPUS_PER_HOST),
        "window": timedelta(milliseconds=WINDOW_MS),
        "gpus": GPUS_PER_HOST,
        "amount": _AMOUNT_MICRO,
    }

    def work(session: Session) -> None:
        for index in _INDICES:
            session.execute(text(f"drop index {index.split()[0]}"))
        for statement in _FILL:
            session.execute(text(statement), {name: value for name, value in values.items() if f":{name}" in statement})
        for index in _INDICES:
            session.execute(text(f"create index {index}"))
        session.execute(text("analyze"))

    database.transact(work)


def _read(database: Database, customer_id: int, period: Period) -> float:
    begun = time.perf_counter()
    found = database.transact(
        lambda session: service.statement_page(session, customer_id, period, cursor=None, limit=200)
    )
    took_s = time.perf_counter() - begun
    assert len(found.lines) == _ALLOCATIONS
    assert sum(line.amount_micro for line in found.lines) == found.totals.amount_micro > 0
    return took_s
