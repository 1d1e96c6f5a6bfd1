"""Takes bodies of any size into temporary files: few at once, and none for ever."""

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.errors import BadRequest, RequestTimeout, TooLarge, TooManyRequests, Unavailable

AT_ONCE = 16  # in this process
AT_ONCE_OF_ONE = 4  # of one customer
PIECE_BYTES = 2**20
LONGEST_PAUSE_S = 30.0
LONGEST_S = 1800.0

_AGAIN = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True)
class Received:
    """`digest` is the SHA-256 of the file's bytes, hexadecimal. The file is gone when the block is left."""

    file: BinaryIO
    digest: str
    size_bytes: int


class Receiver:
    """One per application, for its event loop."""

    def __init__(self) -> None:
        self._running: Counter[int] = Counter()  # by customer

    @asynccontextmanager
    async def receive(
        self, pieces: AsyncIterator[bytes], *, customer_id: int, max_bytes: int
    ) -> AsyncIterator[Received]:
        """
        Raises:
            TooLarge, BadRequest, RequestTimeout, TooManyRequests, Unavailable
        """
        with self._counted(customer_id), tempfile.TemporaryFile(prefix="rg-upload-") as file:
            try:
                async with asyncio.timeout(LONGEST_S):
                    digest, size_bytes = await _spool(file, pieces, max_bytes)
            except TimeoutError as error:
                raise RequestTimeout("The body came too slowly; try again.") from error
            except ClientDisconnect as error:
                raise BadRequest("The body ended before it was whole.") from error
            yield Received(file, digest, size_bytes)

    @contextmanager
    def _counted(self, customer_id: int) -> Iterator[None]:
        if self._running[customer_id] >= AT_ONCE_OF_ONE:
            detail = f"{AT_ONCE_OF_ONE} uploads of your customer are on their way; wait for one of them."
            raise TooManyRequests(detail, code="too_many_uploads", headers=_AGAIN)
        if self._running.total() >= AT_ONCE:
            raise Unavailable("Too many uploads are on their way; try again.", headers=_AGAIN)
        self._running[customer_id] += 1
        try:
            yield
        finally:
            self._running[customer_id] -= 1
            if not self._running[customer_id]:
                del self._running[customer_id]


async def _spool(file: BinaryIO, pieces: AsyncIterator[bytes], max_bytes: int) -> tuple[str, int]:
    """In pieces that are worth a thread: hashing and writing would keep the loop from others."""
    hashed, size_bytes, waiting = hashlib.sha256(), 0, bytearray()

    def keep(content: bytes) -> None:
        hashed.update(content)
        file.write(content)

    while (piece := await _next(pieces)) is not None:
        size_bytes += len(piece)
        if size_bytes > max_bytes:
            raise TooLarge(f"The body is larger than the {max_bytes} bytes that an upload may have.")
        waiting += piece
        if len(waiting) >= PIECE_BYTES:
            await run_in_threadpool(keep, bytes(waiting))
            waiting.clear()
    await run_in_threadpool(keep, bytes(waiting))
    return hashed.hexdigest(), size_bytes


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    async with asyncio.timeout(LONGEST_PAUSE_S):
        return await anext(pieces, None)
