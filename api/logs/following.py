"""Following output: for each log one reader in this process, which serves all its followers.

The reader knows the newest chunks, and the cache has them ready to be sent. Followers take them at their own pace and
hold up nobody: who is further behind than that is served from the store.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from psycopg import Error as ReadFailure

from api.change_feed import ChangeFeed
from api.db import Database
from api.errors import TooManyRequests
from api.logs.cache import ChunkCache
from api.logs.chunks import Chunk
from api.logs.entries import Frame, dropped, frames_of
from api.logs.reading import LogRef, chunks_from, extent, is_kept, lost
from api.logs.receiving import CHANNEL
from api.object_store import NoSuchObject, ObjectStore
from api.principal import Principal
from scheduler.log_records import MAX_POSITION

LOOK_AGAIN_S = 2.0  # a lost notification costs this much at most
_NEWEST = 64  # chunks that a reader remembers
_AT_ONCE = 16

End = Callable[[], Awaitable[int | None]]

_log = logging.getLogger(__name__)


class Following:
    """One per application; it begins to listen with the first follower."""

    def __init__(self, database: Database, objects: ObjectStore, *, most_of_customer: int) -> None:
        self._database = database
        self._most_of_customer = most_of_customer
        self._followers: Counter[int] = Counter()
        self._feed = ChangeFeed(database, CHANNEL)
        self._listens = False
        self.cache = ChunkCache(objects)
        self.readers: dict[LogRef, Reader] = {}

    async def frames(self, log: LogRef, position: int, end: End | None = None) -> AsyncGenerator[Frame, None]:
        """What a log has from `position` on, and then what comes, until it has ended. Close it when done.

        With `end`, of a part of it: that is asked again and again, and answers where the part ends once that is known.

        Raises:
            ObjectStoreUnavailable
            psycopg.Error
        """
        reader = self._join(log)
        try:
            while True:
                known, look = reader.position, reader.next_look
                chunks = await reader.chunks(position)
                limit = await _limit(end)  # after the chunks: what they hold of other parts is known then
                for chunk in chunks:
                    frames = await self._frames(reader, chunk, position, limit)
                    if frames is None:
                        break
                    for frame in frames:
                        yield frame
                        position = frame.end
                if position >= limit:
                    return
                if not chunks and position < known:
                    yield _gone(position, min(known, limit))
                    position = min(known, limit)
                elif not chunks:
                    if reader.ended and position >= reader.position:
                        return
                    await (reader.news(position) if end is None else look.wait())
        finally:
            self._leave(reader)

    async def _frames(self, reader: "Reader", chunk: Chunk, position: int, limit: int) -> Sequence[Frame] | None:
        """What is new of a chunk. None: it is no chunk of its own any more, look again."""
        if position >= min(limit, chunk.end):
            return ()
        try:
            return await self.cache.frames(chunk, position, limit)
        except NoSuchObject:
            if await is_kept(self._database, reader.log, chunk):
                return list(frames_of(lost(chunk, position, limit)))
        reader.forget()
        return None

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """Around the time in which somebody follows.

        Raises:
            TooManyRequests: as many of the same customer do as may.
        """
        customer_id = principal.tenant_id
        if self._followers[customer_id] >= self._most_of_customer:
            raise TooManyRequests("Too many connections follow output; close some first.", code="too_many_followers")
        self._followers[customer_id] += 1
        try:
            yield
        finally:
            self._followers[customer_id] -= 1

    async def stop(self) -> None:
        for reader in list(self.readers.values()):
            reader.stop()
        self.cache.close()
        if self._listens:
            await self._feed.stop()

    def _join(self, log: LogRef) -> "Reader":
        if not self._listens:
            self._feed.start()
            self._listens = True
        reader = self.readers.get(log)
        if reader is None:
            reader = self.readers[log] = Reader(self._database, self._feed, log)
        reader.followers += 1
        return reader

    def _leave(self, reader: "Reader") -> None:
        reader.followers -= 1
        if not reader.followers:
            reader.stop()
            del self.readers[reader.log]


class Reader:
    """What is known of the newest part of one log. It looks when there is something new, for all its followers."""

    def __init__(self, database: Database, feed: ChangeFeed, log: LogRef) -> None:
        self.log = log
        self.followers = 0
        self.position = 0  # up to which chunks are known
        self.ended = False
        self._database, self._feed = database, feed
        self._newest: deque[Chunk] = deque(maxlen=_NEWEST)
        self._looked = asyncio.Event()
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()

    async def chunks(self, position: int) -> Sequence[Chunk]:
        """Those from `position` on, or the first of them; none if nothing more is known."""
        await self._looked.wait()
        if position >= self.position:
            return ()
        if self._newest and position >= self._newest[0].position:
            return [chunk for chunk in self._newest if chunk.end > position]
        return await chunks_from(self._database, self.log, position, most=_AT_ONCE)

    def forget(self) -> None:
        """Chunks that it knows are there no more: who is behind looks in the database."""
        self._newest.clear()

    async def news(self, position: int) -> None:
        """Wait until there is more than up to `position`, or the log has ended."""
        while self.position <= position and not self.ended:
            await self._news.wait()

    @property
    def next_look(self) -> asyncio.Event:
        """Set when it has looked again; after the last time that is the case."""
        return self._news

    async def _run(self) -> None:
        event = self._feed.watch(self.log.attempt_id)
        try:
            while not self.ended:
                event.clear()
                await self._look_patiently()
                await _set_within(event, LOOK_AGAIN_S)
        finally:
            self._feed.unwatch(self.log.attempt_id, event)

    async def _look_patiently(self) -> None:
        try:
            await self._look()
        except ReadFailure as error:
            _log.warning("looking for new output failed, trying again: %s", error)

    async def _look(self) -> None:
        found = await extent(self._database, self.log)  # before the chunks: if it has ended, they are all there
        if not self._looked.is_set():
            self.position = found.position
        while self.position < found.position:
            chunks = await chunks_from(self._database, self.log, self.position, most=_NEWEST)
            self._newest.extend(chunks)
            self.position = chunks[-1].end if chunks else found.position
        self.ended = found.ended
        self._looked.set()
        self._news.set()
        if not found.ended:
            self._news = asyncio.Event()


async def _limit(end: End | None) -> int:
    known = None if end is None else await end()
    return MAX_POSITION if known is None else known


def _gone(position: int, end: int) -> Frame:
    return next(frames_of([dropped(position, end)]))


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
