"""Small chunks become one, and at no moment does whoever reads lose or double a byte, whatever is killed when."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update

from api.db import Database
from api.logs import pages, receiving
from api.logs.chunks import Chunk
from api.logs.entries import Entry, Frame
from api.logs.following import Following
from api.logs.merging import Merging, merge_due
from api.logs.pages import Span, read_page
from api.logs.reading import LogRef, extent
from api.logs.tables import FEW, MANY, Log, LogChunk, LogLeftover
from api.object_store import ObjectStore, ObjectStoreUnavailable
from api.settings import Settings
from tests.db.conftest import Tenant
from tests.db.listener import Listener
from tests.db.log_world import LogWorld, incoming, path_of, written
from tests.waiting import wait_for


class Killed(Exception):
    """The process ends here."""


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> LogWorld:
    return LogWorld(database, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


@pytest.fixture
def quiet(world: LogWorld) -> "Quiet":
    return Quiet(world)


class Quiet:
    """An attempt that writes a line now and then."""

    def __init__(self, world: LogWorld) -> None:
        self.world = world
        self.attempt, self.source = world.attempt(world.task())
        self.log = LogRef(self.attempt.id, self.attempt.uid, 1, 0)
        self.text = ""

    def write(self, count: int, *, last: bool = False) -> None:
        for number in range(count):
            line = f"line {len(self.text)} \u00e9\n"
            position = len(self.text.encode())
            self.world.take(self.source, written(position, line), last=last and number == count - 1)
            self.text += line

    def merge(self) -> int:
        return merge_due(self.world.database, self.world.objects)

    def read(self, position: int = 0) -> str:
        """All from there on, a page at a time."""

        async def read_all() -> str:
            text, at = "", position
            while True:
                known = await extent(self.world.database, self.log)
                page = await read_page(self.world.database, self.world.objects, Span(self.log, known, at), limit=100)
                if page.end == at:
                    return text
                text, at = text + "".join(_texts(page.entries)), page.end

        return asyncio.run(read_all())

    def is_whole(self) -> None:
        """Whatever position is asked for, the rest is there."""
        assert self.read() == self.text
        content = self.text.encode()
        for position in (1, len(content) // 2, len(content) - 1):
            assert self.read(position) == content[position:].decode(errors="replace")

    def chunks(self) -> list[Chunk]:
        rows = sorted(self.world.fleet.rows(LogChunk), key=lambda row: row.position)
        return [Chunk(self.attempt.uid, 0, row.position, row.length, row.merged_uid) for row in rows]

    def objects(self) -> set[str]:
        return {found.key for found in self.world.objects.list("logs")}

    def later(self) -> None:
        """Long after: what is left over is due."""
        past = update(LogLeftover).values(due_at=func.now())
        self.world.database.transact(lambda session: session.execute(past))
        self.merge()
        assert self.world.fleet.rows(LogLeftover) == []
        assert self.objects() == {chunk.key for chunk in self.chunks()}


def _texts(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        record = json.loads(entry.json)
        yield record.get("text", f"<{record.get('dropped')}>")


def _text(frame: Frame) -> str:
    return "".join(record["text"] for record in json.loads(f"[{frame.json}]"))


def test_what_is_written_slowly_becomes_few_chunks(quiet: Quiet) -> None:
    quiet.write(MANY - 1)
    assert quiet.merge() == 0
    quiet.write(1)
    assert quiet.merge() == 1
    quiet.is_whole()
    assert len(quiet.chunks()) == 1
    quiet.write(MANY)
    assert quiet.merge() == 1
    quiet.is_whole()
    quiet.write(1, last=True)
    quiet.world.end(quiet.attempt)
    assert quiet.merge() == 1
    (chunk,) = quiet.chunks()
    assert (chunk.position, chunk.length) == (0, len(quiet.text.encode()))
    (row,), (log,) = quiet.world.fleet.rows(LogChunk), quiet.world.fleet.rows(Log)
    assert row.content_bytes == log.kept_bytes == log.received_bytes
    assert row.size_bytes == quiet.world.objects.size(chunk.key)
    quiet.later()
    quiet.is_whole()
    assert quiet.merge() == 0


def test_a_short_log_is_left_as_it_is(quiet: Quiet) -> None:
    quiet.write(FEW - 1, last=True)
    assert quiet.merge() == 0
    assert len(quiet.chunks()) == FEW - 1


def test_what_is_dropped_stays_dropped_and_the_head_apart(quiet: Quiet) -> None:
    quiet.world.settings = quiet.world.settings.model_copy(update={"log_limit_bytes": 1500, "log_head_bytes": 400})
    quiet.write(MANY)
    before = quiet.read()
    assert before.count("<") == 1
    quiet.merge()
    assert len(quiet.chunks()) == 2
    assert quiet.read() == before
    head = quiet.chunks()[0]
    quiet.write(2 * MANY, last=True)
    quiet.merge()
    assert quiet.chunks()[0] == head, "what is kept in any case still is"
    (log,) = quiet.world.fleet.rows(Log)
    assert log.kept_bytes == sum(row.content_bytes for row in quiet.world.fleet.rows(LogChunk))
    quiet.later()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["get", "_intend", "put", "_replace", "_done", "delete", "delete_leftovers"])
def test_whatever_is_killed_when_nothing_is_lost_doubled_or_left(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    quiet.write(MANY)
    if step in ("delete", "delete_leftovers"):  # of what an earlier time left
        quiet.merge()
        quiet.write(MANY)
        past = update(LogLeftover).values(due_at=func.now())
        quiet.world.database.transact(lambda session: session.execute(past))
    with monkeypatch.context() as patch:
        broken(patch, step, after)
        with pytest.raises(Killed):
            quiet.merge()
    quiet.is_whole()
    quiet.merge()
    quiet.is_whole()
    quiet.later()
    assert len(quiet.chunks()) == 1
    quiet.is_whole()


def broken(patch: pytest.MonkeyPatch, step: str, after: bool) -> None:
    """Have the process end before or after a call of the store's, or a transaction."""
    if step not in ("get", "put", "delete"):
        transact = Database.transact

        def ends(database: Database, work: Callable[..., Any]) -> Any:
            if step not in getattr(work, "func", work).__qualname__:
                return transact(database, work)
            if after:
                transact(database, work)
            raise Killed

        patch.setattr(Database, "transact", ends)
        return
    calls: list[str] = []
    real = getattr(ObjectStore, step)

    def asked(store: ObjectStore, key: str, *content: bytes) -> Any:
        calls.append(key)
        if step != "put" and len(calls) < MANY // 2:  # in the middle
            return real(store, key)
        if after:
            real(store, key, *content)
        raise Killed

    patch.setattr(ObjectStore, step, asked)


def test_a_store_that_fails_leaves_it_to_the_next_time(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet.write(MANY)
    merging_ = Merging(quiet.world.database, quiet.world.objects)
    with monkeypatch.context() as patch:

        def fails(*_: Any) -> None:
            raise ObjectStoreUnavailable("away")

        patch.setattr(ObjectStore, "put", fails)
        merging_.run()
        assert len(quiet.chunks()) == MANY
    merging_.run()
    assert len(quiet.chunks()) == 1
    quiet.is_whole()
    quiet.later()


def test_what_was_lost_is_told_as_before(quiet: Quiet) -> None:
    quiet.write(MANY)
    lost = quiet.chunks()[7]
    quiet.world.objects.delete(lost.key)
    before = quiet.read()
    assert f"<{lost.length}>" in before
    assert quiet.merge() == 0
    assert quiet.read() == before


def test_what_changes_meanwhile_is_not_merged(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that are dropped, or that another process has merged."""
    quiet.write(MANY)
    real = ObjectStore.put

    def drop(store: ObjectStore, key: str, content: bytes) -> None:
        real(store, key, content)
        first = update(LogChunk).where(LogChunk.position == 0).values(dropped_at=func.now())
        quiet.world.database.transact(lambda session: session.execute(first))

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", drop)
        assert quiet.merge() == 0
    assert len(quiet.chunks()) == MANY
    assert quiet.read().startswith(f"<{quiet.chunks()[0].length}>")
    receiving.delete_dropped(quiet.world.database, quiet.world.objects)
    quiet.later()


def test_several_at_once_and_output_that_comes_in_meanwhile(quiet: Quiet) -> None:
    quiet.write(MANY)
    stop = threading.Event()

    def merge() -> None:
        while not stop.is_set():
            quiet.merge()

    threads = [threading.Thread(target=merge) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            quiet.write(20)
            quiet.is_whole()
        quiet.write(1, last=True)
        wait_for(lambda: len(quiet.chunks()) == 1, timeout_s=20, what="one chunk")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    quiet.is_whole()
    quiet.later()
    quiet.is_whole()


def test_a_page_that_is_being_read_is_whole(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunks become one, and their objects go, after it has found which there are."""
    quiet.write(MANY)
    real = pages.chunks_from

    async def late(*arguments: Any, **options: Any) -> list[Chunk]:
        found = await real(*arguments, **options)
        if await asyncio.to_thread(quiet.merge):
            await asyncio.to_thread(quiet.later)
        return found

    monkeypatch.setattr(pages, "chunks_from", late)
    assert quiet.read() == quiet.text
    assert len(quiet.chunks()) == 1


def test_who_follows_misses_nothing(quiet: Quiet) -> None:
    """One that has the newest chunks from before, and one that is behind."""
    quiet.write(MANY)
    world = quiet.world

    async def follow() -> tuple[str, str]:
        following = Following(world.database, world.objects, most_of_customer=9)
        slow, quick = following.frames(quiet.log, 0), following.frames(quiet.log, 0)
        async with aclosing(slow), aclosing(quick):
            texts = [_text(await anext(slow)), _text(await anext(quick))]
            assert len(texts[0]) < len(quiet.text)
            await asyncio.to_thread(quiet.merge)
            await asyncio.to_thread(quiet.later)
            following.cache._kept.clear()
            while len(texts[1]) < len(quiet.text):
                texts[1] += _text(await anext(quick))
            await asyncio.to_thread(quiet.write, MANY, last=True)
            await asyncio.to_thread(world.end, quiet.attempt)
            await asyncio.to_thread(quiet.merge)
            await asyncio.to_thread(quiet.later)
            following.cache._kept.clear()
            for number, frames in enumerate((slow, quick)):
                async for frame in frames:
                    texts[number] += _text(frame)
        await following.stop()
        return texts[0], texts[1]

    assert asyncio.run(follow()) == (quiet.text, quiet.text)


def test_the_platform_merges_by_itself_and_what_is_sent_again_is_no_news(
    quiet: Quiet, listener: Listener, tmp_path: Path
) -> None:
    line = written(0, "x")
    with listener.client(quiet.world.certificate(quiet.world.hosts[0], tmp_path)) as client:
        for position in range(MANY):
            line = written(position, "x")
            chunk = incoming(line)
            assert client.put(path_of(quiet.source, position), params={"length": 1}, content=chunk.body).is_success
        wait_for(lambda: len(quiet.chunks()) == 1, timeout_s=20, what="one chunk")
        again = client.put(path_of(quiet.source, MANY - 1), params={"length": 1}, content=incoming(line).body)
        assert (again.status_code, again.json()["errors"]) == (409, [{"expected": MANY, "whole": False}])
    quiet.text = "x" * MANY
    quiet.is_whole()
    quiet.later()
