"""Chunks of output come in: in order, once, from the attempt's own host, and not without limit."""

import threading
from pathlib import Path

import httpx
import pytest

from api.db import Database
from api.errors import NotFound, Unprocessable
from api.logs import receiving
from api.logs.chunks import Chunk, compressed, decompressed
from api.logs.receiving import Incoming, NotExpectedError, Source, Standing, standing, take
from api.logs.tables import Log, LogChunk
from api.settings import Settings
from scheduler.log_records import MAX_CONTENT_BYTES, Record, Stream, pack, unpack_run
from tests.db.conftest import Tenant
from tests.db.listener import Listener
from tests.db.log_world import AT_MS, LogWorld, incoming, path_of, written


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> LogWorld:
    return LogWorld(database, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


def stands(world: LogWorld, source: Source) -> Standing:
    with world.database.session() as session:
        return standing(session, source)


def test_chunks_become_objects_and_rows(world: LogWorld) -> None:
    attempt, source = world.attempt(world.task())
    assert stands(world, source) == Standing(0, False)
    first, second = written(0, "one ", "two"), written(7, 1000, "three")
    world.take(source, first)
    world.take(source, second, last=True)
    assert stands(world, source) == Standing(1012, True)
    rows = world.fleet.rows(LogChunk)
    assert [(row.position, row.length) for row in rows] == [(0, 7), (7, 1005)]
    keys = [Chunk(attempt.uid, 0, row.position, row.length).key for row in rows]
    assert {found.key for found in world.objects.list(f"logs/{attempt.uid}")} == set(keys)
    assert unpack_run(decompressed(world.objects.get(keys[1])), 7) == second


def test_sent_again_it_changes_nothing(world: LogWorld) -> None:
    _, source = world.attempt(world.task())
    first = written(0, "one ")
    for _ in range(2):
        world.take(source, first)
    world.take(source, written(4, "two"))
    world.take(source, first)
    for _ in range(2):
        world.take(source, [], position=7, last=True)
    world.take(source, first)
    assert stands(world, source) == Standing(7, True)
    assert len(world.fleet.rows(LogChunk)) == 2


@pytest.mark.parametrize(("position", "text"), [(5, "gap"), (2, "o two"), (0, "o"), (0, "one two")])
def test_gaps_and_overlaps_are_told_where_it_goes_on(world: LogWorld, position: int, text: str) -> None:
    attempt, source = world.attempt(world.task())
    world.take(source, written(0, "one "))
    with pytest.raises(NotExpectedError) as caught:
        world.take(source, written(position, text))
    assert caught.value.errors == [{"expected": 4, "whole": False}]
    assert stands(world, source) == Standing(4, False)
    assert len(list(world.objects.list(f"logs/{attempt.uid}"))) == 1


def test_nothing_follows_the_last_one(world: LogWorld) -> None:
    _, source = world.attempt(world.task())
    world.take(source, written(0, "all"), last=True)
    for more, last in (("more", False), ("more", True)):
        with pytest.raises(NotExpectedError) as caught:
            world.take(source, written(3, more), last=last)
        assert caught.value.errors == [{"expected": 3, "whole": True}]


def test_of_two_at_once_one_is_kept_whole(world: LogWorld) -> None:
    attempt, source = world.attempt(world.task())
    sent = [written(0, "x" * length) for length in range(100, 108)]
    failures: list[Exception] = []

    def send(records: list[Record]) -> None:
        try:
            world.take(source, records)
        except NotExpectedError as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(records,)) for records in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == len(sent) - 1
    (row,) = world.fleet.rows(LogChunk)
    chunk = Chunk(attempt.uid, 0, row.position, row.length)
    assert [found.key for found in world.objects.list("logs")] == [chunk.key]
    assert sum(len(r.data) for r in unpack_run(decompressed(world.objects.get(chunk.key)), 0)) == row.length


def test_only_its_own_host_brings_it_and_at_its_own_rank(world: LogWorld) -> None:
    _, source = world.attempt(world.task())
    other = world.hosts[1].id
    for stranger in (
        Source(other, source.allocation_uid, 1, 0),
        Source(source.host_id, source.allocation_uid, 2, 0),
        Source(source.host_id, source.allocation_uid, 1, 1),
    ):
        with pytest.raises(NotFound):
            world.take(stranger, written(0, "forged"))
        with pytest.raises(NotFound):
            stands(world, stranger)
    assert world.fleet.rows(Log) == []


BAD = {
    "nothing": b"",
    "not compressed": b"plain text",
    "a bomb": compressed(bytes(MAX_CONTENT_BYTES + 1)),
    "cut off": compressed(pack(Record(Stream.STDOUT, AT_MS, 0, b"abc"))[:-1]),
    "another position": compressed(pack(Record(Stream.STDOUT, AT_MS, 1, b"abc"))),
    "a gap inside": compressed(b"".join(pack(Record(Stream.STDOUT, AT_MS, at, b"abc")) for at in (0, 4))),
    "another length": compressed(pack(Record(Stream.STDOUT, AT_MS, 0, b"abcd"))),
    "no such time": compressed(pack(Record(Stream.STDOUT, 2**63, 0, b"abc"))),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_what_is_no_row_of_records_is_refused(world: LogWorld, body: bytes) -> None:
    _, source = world.attempt(world.task())
    with pytest.raises(Unprocessable):
        take(world.database, world.objects, world.settings, source, Incoming(0, 3, body, False))
    assert list(world.objects.list("logs")) == [] and world.fleet.rows(Log) == []


def test_beyond_the_limit_the_oldest_but_the_first_goes(world: LogWorld) -> None:
    world.settings = world.settings.model_copy(update={"log_limit_bytes": 10_000, "log_head_bytes": 2000})
    _, source = world.attempt(world.task())
    for position in range(0, 40_000, 1000):
        world.take(source, written(position, "x" * 1000))
    kept = [row.position for row in world.fleet.rows(LogChunk) if row.dropped_at is None]
    assert kept == [0, 1000, *range(33_000, 40_000, 1000)]
    (log,) = world.fleet.rows(Log)
    assert log.kept_bytes == 9 * 1024 and log.position == 40_000
    keys = {f"{position}-1000" for position in kept}
    assert {found.key.rpartition("/")[2] for found in world.objects.list("logs")} == keys
    assert len(world.fleet.rows(LogChunk)) == len(kept)


def test_what_a_killed_server_left_to_delete_goes_with_what_is_dropped_next(world: LogWorld) -> None:
    world.settings = world.settings.model_copy(update={"log_limit_bytes": 2500, "log_head_bytes": 1})
    _, source = world.attempt(world.task())
    for position in range(0, 4000, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(receiving, "delete_dropped", lambda *_: 0)  # it is killed before
            world.take(source, written(position, "x" * 1000))
    assert len(world.fleet.rows(LogChunk)) == 4
    for chunk in list(world.objects.list("logs"))[:1]:
        world.objects.delete(chunk.key)  # or in the middle of it
    world.take(source, written(4000, "x" * 1000))
    assert [row.position for row in world.fleet.rows(LogChunk)] == [0, 4000]


def test_a_chunk_larger_than_the_limit_is_kept_all_the_same(world: LogWorld) -> None:
    world.settings = world.settings.model_copy(update={"log_limit_bytes": 10, "log_head_bytes": 1})
    _, source = world.attempt(world.task())
    for position in range(0, 4000, 1000):
        world.take(source, written(position, "x" * 1000))
    assert [row.position for row in world.fleet.rows(LogChunk) if row.dropped_at is None] == [0, 3000]


def test_a_host_sends_over_its_own_connection(world: LogWorld, listener: Listener, tmp_path: Path) -> None:
    _, source = world.attempt(world.task())
    chunk = incoming(written(0, "over the wire"))
    with listener.client(world.certificate(world.hosts[0], tmp_path)) as client:
        assert client.get(path_of(source)).json() == {"expected": 0, "whole": False}
        assert put(client, source, chunk).status_code == 204
        refused = put(client, source, incoming(written(99, "gap")))
        assert (refused.status_code, refused.json()["code"]) == (409, "not_expected")
        assert refused.json()["errors"] == [{"expected": 13, "whole": False}]
        assert put(client, source, Incoming(13, 0, b"", True)).status_code == 204
        assert client.get(path_of(source)).json() == {"expected": 13, "whole": True}
        assert client.put(path_of(source, 13), content=bytes(9 * 2**20)).status_code == 413
    with listener.client(world.certificate(world.hosts[1], tmp_path)) as stranger:
        assert stranger.get(path_of(source)).status_code == 404
        assert put(stranger, source, chunk).status_code == 404


def put(client: httpx.Client, source: Source, chunk: Incoming) -> httpx.Response:
    query = {"length": str(chunk.length), "last": str(chunk.last).lower()}
    return client.put(path_of(source, chunk.position), params=query, content=chunk.body)
