"""Chunks made ready to be sent, each read once however many ask at a time, and kept for those who come next."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from api.logs.chunks import Chunk
from api.logs.entries import Frame, frames_of
from api.logs.reading import entries_from
from api.object_store import ObjectStore
from scheduler.log_records import MAX_POSITION

MAX_CHARACTERS = 64 * 2**20
_THREADS = 4

Frames = Sequence[Frame]


class ChunkCache:
    """For one event loop."""

    def __init__(self, objects: ObjectStore, *, max_characters: int = MAX_CHARACTERS) -> None:
        self._objects = objects
        self._max_characters = max_characters
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="logs")
        self._kept: OrderedDict[Chunk, Frames] = OrderedDict()
        self._characters = 0
        self._reading: dict[Chunk, asyncio.Task[Frames]] = {}
        self.reads = 0

    async def frames(self, chunk: Chunk, position: int, limit: int = MAX_POSITION) -> Frames:
        """What a chunk has from `position` on and before `limit`, and that what is missing before it was dropped.

        Raises:
            ObjectStoreUnavailable
        """
        if limit < chunk.end:
            return await self._read(chunk, position, limit)
        if position == chunk.position:
            return await self._whole(chunk)
        if position > chunk.position:
            frames = await self._whole(chunk)
            for index, frame in enumerate(frames):
                if frame.position == position:
                    return frames[index:]
        return await self._read(chunk, position)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _whole(self, chunk: Chunk) -> Frames:
        found = self._kept.get(chunk)
        if found is not None:
            self._kept.move_to_end(chunk)
            return found
        reading = self._reading.get(chunk)
        if reading is None:
            reading = self._reading[chunk] = asyncio.create_task(self._load(chunk))
        return await asyncio.shield(reading)  # others wait for it too

    async def _load(self, chunk: Chunk) -> Frames:
        try:
            frames = await self._read(chunk, chunk.position)
        finally:
            del self._reading[chunk]
        self._kept[chunk] = frames
        self._characters += _size(frames)
        while self._characters > self._max_characters:
            _, oldest = self._kept.popitem(last=False)
            self._characters -= _size(oldest)
        return frames

    async def _read(self, chunk: Chunk, position: int, limit: int = MAX_POSITION) -> Frames:
        self.reads += 1
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _frames, self._objects, chunk, position, limit)


def _frames(objects: ObjectStore, chunk: Chunk, position: int, limit: int) -> Frames:
    return list(frames_of(entries_from(objects, chunk, position, limit)))


def _size(frames: Frames) -> int:
    return sum(len(frame.json) for frame in frames)
