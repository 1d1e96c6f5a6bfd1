"""Taking in usage windows, over PostgreSQL's COPY of the same rows into a table without any index: one connection each,
in turns, in one run.

COPY is given its text ready-made, all at once, and commits once. Ingestion is `api.metering.service.ingest`, from the
batches as they come from the decoder to the commit of each: screening, storing, merging, charging. A batch is what an
agent with a backlog ships, or, for what is shipped live, one window per device.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple

import psycopg

from api.db import Database
from api.metering.service import ingest
from scheduler.host_protocol import MAX_BATCH, UsageBatch
from tests.bench.billing_site import GPUS_PER_HOST, Prover, ledger_server, make_site, opened
from tests.bench.figures import Figure, median

_ROUNDS = 5
_BATCHES = 40
_LIVE = 400
_TABLE = (
    "create table copied (host_id bigint, boot_id text, sequence bigint, allocation_uid text, generation bigint,"
    " container_id text, device_uuid text, milli bigint, from_ms bigint, to_ms bigint)"
)


def run() -> list[Figure]:
    with ledger_server() as url, opened(url) as database:
        (prover,) = make_site(database, hosts=1)
        with database.engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert isinstance(connection, psycopg.Connection)
            connection.execute(_TABLE)
            connection.commit()
            rates = [_round(database, connection, prover, number) for number in range(_ROUNDS + 1)][1:]
        live = _live_rates(database, prover)
    copied, ingested = [rate for rate, _ in rates], [rate for _, rate in rates]
    ratios = [mine / theirs for theirs, mine in rates]
    samples = {"ratio": ratios, "copied_per_s": copied, "ingested_per_s": ingested}
    return [
        Figure("ingestion of windows over COPY", median(ratios), "x", 0.5, False, samples),
        Figure("windows per second that are shipped live", median(live), "/s", 200.0, False, {"per_s": live}),
    ]


def _round(
    database: Database, connection: psycopg.Connection[tuple[object, ...]], prover: Prover, number: int
) -> tuple[float, float]:
    """Windows per second of COPY and of ingestion."""
    ticks = MAX_BATCH // GPUS_PER_HOST
    batches = [prover.batch((number * _BATCHES + each) * ticks, ticks) for each in range(_BATCHES)]
    windows = sum(len(batch.windows) for batch in batches)
    rows = _as_text(prover.host_id, batches)
    begun = time.perf_counter()
    with connection.cursor().copy("copy copied from stdin") as copy:
        copy.write(rows)
    connection.commit()
    between = time.perf_counter()
    for batch in batches:
        ingest(database, prover.host_id, batch)
    return windows / (between - begun), windows / (time.perf_counter() - between)


def _as_text(host_id: int, batches: Sequence[UsageBatch]) -> bytes:
    lines = ("\t".join(map(str, (host_id, *astuple(window)))) for batch in batches for window in batch.windows)
    return "".join(f"{line}\n" for line in lines).encode()


def _live_rates(database: Database, prover: Prover) -> list[float]:
    first = (_ROUNDS + 1) * _BATCHES * (MAX_BATCH // GPUS_PER_HOST)
    rates = []
    for number in range(_ROUNDS):
        batches = [prover.batch(first + number * _LIVE + each, 1) for each in range(_LIVE)]
        begun = time.perf_counter()
        for batch in batches:
            ingest(database, prover.host_id, batch)
        rates.append(_LIVE * GPUS_PER_HOST / (time.perf_counter() - begun))
    return rates
