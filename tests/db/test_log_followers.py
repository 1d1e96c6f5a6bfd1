"""Many follow one task: its output is read once for all of them, and who is slow holds up nobody."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from api.db import Database
from api.logs.cache import ChunkCache
from api.logs.chunks import Chunk
from api.logs.following import Following
from api.object_store import ObjectStore
from api.server import public_config
from api.settings import Settings
from api.tasks.tables import Task
from tests.db.conftest import Tenant
from tests.db.log_world import LogWorld, written

FOLLOWERS = 1000
CHUNKS = 5


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> LogWorld:
    return LogWorld(database, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


@pytest.fixture
def server(settings: Settings, database: Database) -> Iterator[uvicorn.Server]:
    """The public listener, with real connections."""
    config = public_config(settings.model_copy(update={"listen_port": 0}), database)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline_s = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline_s and thread.is_alive()
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def url_of(server: uvicorn.Server, task: Task) -> str:
    port = server.servers[0].sockets[0].getsockname()[1]
    return f"ws://127.0.0.1:{port}/api/v1/customer/tasks/{task.uid}/logs/follow"


def following_of(server: uvicorn.Server) -> Following:
    app = server.config.app
    return app.state.following  # type: ignore[union-attr,no-any-return] # uvicorn takes many kinds of application


async def text_to_end(socket: ClientConnection) -> str:
    text = ""
    while True:
        message = json.loads(await socket.recv())
        text += "".join(record["text"] for record in message["records"])
        if message["ended"]:
            return text


def test_a_thousand_followers_are_one_reader(world: LogWorld, server: uvicorn.Server, tenant: Tenant) -> None:
    task = world.task()
    attempt, source = world.attempt(task)
    world.take(source, written(0, "begin\n"))
    following = following_of(server)

    def produce() -> None:
        position = 6
        for number in range(CHUNKS):
            world.take(source, written(position, f"{number}\n"), last=number == CHUNKS - 1)
            position += 2
        world.end(attempt)

    async def follow_all() -> list[str]:
        async with AsyncExitStack() as stack:
            sockets = []
            for _ in range(FOLLOWERS // 50):
                connections = [
                    connect(
                        url_of(server, task), additional_headers=tenant.owner.headers, proxy=None, ping_interval=None
                    )
                    for _ in range(50)
                ]
                sockets += await asyncio.gather(*map(stack.enter_async_context, connections))
            begins = [json.loads(await socket.recv())["records"][0]["text"] for socket in sockets]
            assert set(begins) == {"begin\n"}
            assert len(following.readers) == 1
            assert next(iter(following.readers.values())).followers == FOLLOWERS
            threading.Thread(target=produce).start()
            return await asyncio.gather(*map(text_to_end, sockets))

    texts = asyncio.run(follow_all())
    assert set(texts) == {"".join(f"{number}\n" for number in range(CHUNKS))}
    assert following.cache.reads == 1 + CHUNKS
    deadline_s = time.monotonic() + 10
    while following.readers:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_who_is_slow_holds_up_nobody_and_misses_nothing(
    world: LogWorld, server: uvicorn.Server, tenant: Tenant
) -> None:
    task = world.task()
    attempt, source = world.attempt(task)
    following = following_of(server)
    following.cache._max_characters = 4 * 2**20
    parts = [f"{number:06d}" * 150_000 for number in range(40)]  # more than the connection and the cache hold

    def produce() -> None:
        position = 0
        for part in parts:
            world.take(source, written(position, part))
            position += len(part)
        world.take(source, [], position=position, last=True)
        world.end(attempt)

    async def follow_both() -> tuple[str, str]:
        headers, url = tenant.owner.headers, url_of(server, task)
        slow = connect(url, additional_headers=headers, proxy=None, max_queue=1)
        quick = connect(url, additional_headers=headers, proxy=None)
        async with slow as behind, quick as ahead:
            thread = threading.Thread(target=produce)
            thread.start()
            first = await text_to_end(ahead)  # while the slow one reads nothing
            await asyncio.to_thread(thread.join)
            return first, await text_to_end(behind)

    assert asyncio.run(follow_both()) == ("".join(parts), "".join(parts))
    assert len(parts) + 1 < following.cache.reads <= 2 * len(parts) + 2


def test_the_cache_reads_once_for_all_who_ask_and_keeps_within_its_bound(world: LogWorld) -> None:
    attempt, source = world.attempt(world.task())
    chunks = []
    for position in range(0, 100_000, 10_000):
        world.take(source, written(position, "x" * 10_000))
        chunks.append(Chunk(attempt.uid, 0, position, 10_000))

    async def ask() -> None:
        cache = ChunkCache(world.objects, max_characters=35_000)
        asked = [cache.frames(chunk, chunk.position) for chunk in chunks[:3] for _ in range(20)]
        assert len(await asyncio.gather(*asked)) == 60 and cache.reads == 3
        for chunk in chunks:
            await cache.frames(chunk, chunk.position)
        assert cache.reads == len(chunks) and cache._characters <= 35_000
        waiting = asyncio.create_task(cache.frames(chunks[0], 0))
        other = asyncio.create_task(cache.frames(chunks[0], 0))
        await asyncio.sleep(0)
        waiting.cancel()  # the other one still gets it
        assert (await other)[0].end == 10_000
        cache.close()

    asyncio.run(ask())


def test_a_store_that_is_away_is_told_to_all_who_wait(world: LogWorld) -> None:
    attempt, source = world.attempt(world.task())
    world.take(source, written(0, "x"))

    class Away(ObjectStore):
        def get(self, key: str) -> bytes:
            raise ConnectionError(key)

    async def ask() -> None:
        cache = ChunkCache(Away(world.objects._location))
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await cache.frames(Chunk(attempt.uid, 0, 0, 1), 0)
        assert cache.reads == 2
        cache.close()

    asyncio.run(ask())
