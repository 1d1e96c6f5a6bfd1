"""A day of 1,000 GPUs, window by window, ingested, merged and billed by two processes, as two API workers would.

Each makes the windows of its hosts itself, in the time that is measured: it stands for decoding them. The day ends
with a statement of every customer, and the sum of them is what a day of 1,000 GPUs costs, to the unit.
"""

import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime

from sqlalchemy import select

from api.billing import statement
from api.billing.statement import Period
from api.db import Database
from api.metering.service import ingest
from api.tenants.tables import Customer
from scheduler.host_protocol import MAX_BATCH
from scheduler.money import cumulative_charge_micro
from tests.bench.billing_site import (
    DAY_MS,
    GPUS_PER_HOST,
    PRICE_MICRO,
    WINDOW_MS,
    Prover,
    ledger_server,
    make_site,
    opened,
)
from tests.bench.figures import Figure

_HOSTS = 125
_WORKERS = 2
_TICKS = DAY_MS // WINDOW_MS
_EVER = Period(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def run() -> list[Figure]:
    with ledger_server() as url, opened(url) as database:
        provers = make_site(database, hosts=_HOSTS)
        begun = time.monotonic()
        workers = [_start(url, provers[number::_WORKERS]) for number in range(_WORKERS)]
        growths = [json.loads(worker.communicate()[0])["grown_mib"] for worker in workers]
        billed, duration_ms = _billed(database)
        took_s = time.monotonic() - begun
    gpus = _HOSTS * GPUS_PER_HOST
    one = cumulative_charge_micro(price_micro_per_gpu_hour=PRICE_MICRO, milli=1000, duration_ms=DAY_MS)
    assert (billed, duration_ms) == (gpus * one, gpus * DAY_MS), (billed, duration_ms)
    return [
        Figure("a day of 1,000 GPUs, ingested and billed", took_s, "s", 180.0, True, {"s": [took_s]}),
        Figure("memory that it grows by after a tenth", max(growths), "MiB", 16.0, True, {"mib": growths}),
    ]


def _start(url: str, provers: list[Prover]) -> "subprocess.Popen[str]":
    work = json.dumps(
        {"url": url, "provers": [[each.host_id, each.boot_id, each.starts_ms, list(each.devices)] for each in provers]}
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.billing_day"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    worker.stdin.write(work)
    worker.stdin.close()
    worker.stdin = None
    return worker


def _billed(database: Database) -> tuple[int, int]:
    """The sums of all statements: micro-units and milliseconds."""
    billed = duration_ms = 0
    with database.session() as session:
        for customer_id in session.scalars(select(Customer.id)):
            totals = statement.totals(session, customer_id, _EVER)
            billed, duration_ms = billed + totals.usage_micro, duration_ms + totals.duration_ms
    return billed, duration_ms


def _prove(database: Database, provers: list[Prover]) -> int:
    """The day, hour by hour of the hosts' time. Answers by how many MiB memory grew after the first tenth."""
    ticks = MAX_BATCH // GPUS_PER_HOST
    early = 0
    for first in range(0, _TICKS, ticks):
        for prover in provers:
            ingest(database, prover.host_id, prover.batch(first, min(ticks, _TICKS - first)))
        if not early and first >= _TICKS // 10:
            early = _used_mib()
    return _used_mib() - early


def _used_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    task = json.load(sys.stdin)
    with opened(task["url"]) as opened_database:
        grown = _prove(opened_database, [Prover(*each) for each in task["provers"]])
    sys.stdout.write(json.dumps({"grown_mib": grown}))
