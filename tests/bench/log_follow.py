"""Output from a host to those who follow it: how fast through one follower, and whether a hundred miss anything.

The API is its own process over the embedded PostgreSQL, with both its listeners and a local object store; what is sent
comes over mutual TLS as from a host, and followers are another process. The text is lines as programs log them. The
two of shipping begin where a task's runner does, with segments in a directory.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zstandard

from api.db import Database
from api.logs.chunks import Chunk, decompressed
from api.logs.tables import LogChunk
from api.migrations.migrate import migrate
from api.tasks.tables import Task, TaskAttempt
from deploy.postgres import EmbeddedPostgres
from node.daemon.log_shipping import LogShipping, LogSource
from node.platform import Platform
from node.task_runner.output import STDOUT, Output
from scheduler.log_records import Record, Stream, pack, unpack
from tests.bench.figures import Figure
from tests.process.api_process import running_api
from tests.process.log_shop import LogShop

_RECORD_BYTES = 2**16  # what a runner reads at once from a pipe that is full
_CHUNK_BYTES = 60 * _RECORD_BYTES
_FAST_CHUNKS = 150
_FOLLOWERS = 100
_PACE_BYTES_PER_S = 10**6
_EVERY_S = 0.3
_SECONDS = 20
_ATTEMPTS = 100
_UNLIMITED = dict.fromkeys(("REMOTEGPU_RATE_LIMIT_ADDRESS", "REMOTEGPU_RATE_LIMIT_IDENTITY"), "1000000/second")


def run() -> list[Figure]:
    with _shop() as shop:
        platform = shop.platform()
        figures = [
            _one_follower(shop, platform),
            _many_followers(shop, platform),
            _one_shipped(shop, platform),
            _many_shipped(shop, platform),
        ]
        platform.close()
    return figures


@contextmanager
def _shop() -> Iterator[LogShop]:
    directory = Path(tempfile.mkdtemp(prefix="rgb-", dir="/var/tmp"))
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory / "pg")
    try:
        server.start()
        server.ensure_database("remotegpu")
        database = Database(server.url("remotegpu"))
        migrate(database.engine)
        (directory / "host").mkdir()
        with running_api(server.url("remotegpu"), directory, **_UNLIMITED) as api:
            yield LogShop(database, api, directory / "host", gpus=256)
        database.close()
    finally:
        server.stop()
        shutil.rmtree(directory)


def _one_follower(shop: LogShop, platform: Platform) -> Figure:
    task, attempt, source = shop.attempt("fast")
    chunks = list(_chunks(_FAST_CHUNKS, _CHUNK_BYTES))
    with _followers(shop, [task]) as result:
        for position, length, body in chunks:
            _send(platform, source, position, length, body)
        _send(platform, source, chunks[-1][0] + _CHUNK_BYTES, 0, b"", last=True)
        shop.world.end(attempt)
        (found,) = result()
    assert (found["end"], found["gaps"], found["dropped"]) == (_FAST_CHUNKS * _CHUNK_BYTES, 0, 0), found
    rate = found["end"] / (found["ended_s"] - found["began_s"]) / 1e6
    return Figure("output through one follower", rate, "MB/s", 50, False, {"mb_per_s": [rate]})


def _many_followers(shop: LogShop, platform: Platform) -> Figure:
    task, attempt, source = shop.attempt("followed")
    count, length = round(_SECONDS / _EVERY_S), round(_PACE_BYTES_PER_S * _EVERY_S)
    chunks = list(_chunks(count, length))
    with _followers(shop, [task] * _FOLLOWERS) as result:
        begin_s = time.monotonic()
        for number, (position, covered, body) in enumerate(chunks):
            _send(platform, source, position, covered, body, last=number == count - 1)
            time.sleep(max(0.0, begin_s + (number + 1) * _EVERY_S - time.monotonic()))
        shop.world.end(attempt)
        sent_s = time.time()
        found = result()
    assert all((each["end"], each["gaps"], each["dropped"]) == (count * length, 0, 0) for each in found), found
    late = max(each["ended_s"] for each in found) - sent_s
    return Figure("the last of 100 followers at 1 MB/s behind", late, "s", 2, True, {"s": [late]})


def _one_shipped(shop: LogShop, platform: Platform) -> Figure:
    _, _, source = shop.attempt("loud")
    output = Output(str(source.directory / "log"), ring_bytes=2**34)
    data = _text(_RECORD_BYTES)
    for _ in range(6000):
        output.write(STDOUT, data, time.time_ns() // 10**6)
    output.close(0)
    begin_s = time.monotonic()
    _ship(platform, [source])
    rate = output.position / (time.monotonic() - begin_s) / 1e6
    return Figure("shipped of one attempt", rate, "MB/s", 60, False, {"mb_per_s": [rate]})


def _many_shipped(shop: LogShop, platform: Platform) -> Figure:
    """With rings as they are: what a host can't ship in time is dropped."""
    sources = [shop.attempt(f"t{number}")[2] for number in range(_ATTEMPTS)]
    outputs = [Output(str(source.directory / "log")) for source in sources]
    shipping = LogShipping(platform)
    shipping.start()
    for source in sources:
        shipping.attend(source)
    data = _text(round(_PACE_BYTES_PER_S / 10))
    begin_s = time.monotonic()
    for tick in range(_SECONDS * 10):
        for output in outputs:
            output.write(STDOUT, data, time.time_ns() // 10**6)
        time.sleep(max(0.0, begin_s + (tick + 1) / 10 - time.monotonic()))
    took_s = time.monotonic() - begin_s
    for output in outputs:
        output.close(0)
    _finish(shipping, sources)
    shipping.stop()
    assert sum(output.position for output in outputs) == _ATTEMPTS * _SECONDS * _PACE_BYTES_PER_S
    lost = _dropped_bytes(shop, sources)
    rate = (sum(output.position for output in outputs) - lost) / took_s / 1e6 / _ATTEMPTS
    return Figure("shipped of each of 100 attempts", rate, "MB/s", 0.95, False, {"mb_per_s": [rate], "lost": [lost]})


def _ship(platform: Platform, sources: Sequence[LogSource]) -> None:
    shipping = LogShipping(platform)
    shipping.start()
    _finish(shipping, sources)
    shipping.stop()


def _finish(shipping: LogShipping, sources: Sequence[LogSource]) -> None:
    done = [threading.Event() for _ in sources]
    for source, event in zip(sources, done, strict=True):
        shipping.finish(source, event.set)
    assert all(event.wait(120) for event in done)


def _dropped_bytes(shop: LogShop, sources: Sequence[LogSource]) -> int:
    uids = {row.id: row.uid for row in shop.world.fleet.rows(TaskAttempt)}
    chunks = [Chunk(uids[row.attempt_id], 0, row.position, row.length) for row in shop.world.fleet.rows(LogChunk)]
    return sum(record.dropped for chunk in chunks for record in unpack(decompressed(shop.world.objects.get(chunk.key))))


@contextmanager
def _followers(shop: LogShop, tasks: Sequence[Task]) -> Iterator[Callable[[], list[dict[str, float]]]]:
    """Once all are connected. What is yielded waits for their ends."""
    urls = [shop.follow_url(task) for task in tasks]
    command = [sys.executable, "-m", "tests.bench.log_reader", shop.key, *urls]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        output = process.stdout
        yield lambda: json.loads(output.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _chunks(count: int, length: int) -> Iterator[tuple[int, int, bytes]]:
    """Position, length and body, one after the other."""
    compressor = zstandard.ZstdCompressor(level=1)
    data, at_ms = _text(length), time.time_ns() // 10**6
    for position in range(0, count * length, length):
        records = [
            Record(Stream.STDOUT, at_ms, position + start, data[start : start + _RECORD_BYTES])
            for start in range(0, length, _RECORD_BYTES)
        ]
        yield position, length, compressor.compress(b"".join(map(pack, records)))


def _text(length: int) -> bytes:
    """Lines of a training's log."""
    source, lines, size = random.Random(7), [], 0
    while size < length:
        loss, step = source.random(), source.randrange(10**6)
        line = (
            f"2026-11-26 12:00:{step % 60:02d},{step % 1000:03d} INFO step {step} loss {loss:.6f} lr {loss / 1e3:.3e}\n"
        )
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()[:length]


def _send(
    platform: Platform, source: LogSource, position: int, length: int, body: bytes, *, last: bool = False
) -> None:
    platform.log(
        source.allocation_uid, source.generation, rank=source.rank, position=position, length=length, records=body,
        last=last,
    )  # fmt: skip
