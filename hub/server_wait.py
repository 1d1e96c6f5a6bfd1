"""Waiting until a single-user server answers HTTP.

The Hub's own wait backs off to pauses of up to 5 s, which would show as that much start latency. Here the pause is a
small share of the time that has passed already: the delay that waiting itself adds stays below that share (on average
half of it), and the number of tries grows with the logarithm of the time only. Servers that start beside each other
share what one alone may ask: they need the processors that the asking would take.
"""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

_SHARE = 0.01
_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_TRY_TIMEOUT_S = 5.0
_CHECK_INTERVAL_S = 2.0
_CHECKS_PER_S = 2.0  # of all together

_waiting: set[object] = set()  # one for each wait of this process


async def answers(url: str) -> bool:
    """Whether a GET of `url` gets an HTTP answer that is no server error."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_TRY_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                status_line = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return len(status_line) >= 2 and status_line[1].isdigit() and int(status_line[1]) < 500


async def wait_until_answers(url: str, *, timeout_s: float, check: Callable[[], Awaitable[None]]) -> bool:
    """Whether `url` answered within `timeout_s`. `check` runs beside it now and then, and raises to give up early."""
    me = object()
    _waiting.add(me)
    waiting = asyncio.ensure_future(_answered(url, timeout_s))
    checking = asyncio.ensure_future(_repeat(check))
    try:
        await asyncio.wait([waiting, checking], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            checking.result()  # raises: it ends in no other way
        return await waiting
    finally:
        _waiting.discard(me)
        for task in (waiting, checking):
            task.cancel()
        await asyncio.gather(waiting, checking, return_exceptions=True)


async def _answered(url: str, timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await answers(url):
        waited = loop.time() - began
        if waited >= timeout_s:
            return False
        await asyncio.sleep(min(max(waited * _SHARE, _SHORTEST_PAUSE_S * len(_waiting)), _LONGEST_PAUSE_S))
    return True


async def _repeat(check: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(max(_CHECK_INTERVAL_S, len(_waiting) / _CHECKS_PER_S))
        await check()
