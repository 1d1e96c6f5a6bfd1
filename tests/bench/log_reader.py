"""Followers of output in a process of their own: `python -m tests.bench.log_reader KEY URL...`.

It writes a line when all are connected, and then how far each came, whether anything was missing, and when it ended.
"""

import asyncio
import json
import re
import sys
import time
from contextlib import AsyncExitStack

from websockets.asyncio.client import ClientConnection, connect

_FIRST = re.compile(r'"records":\[\{"position":(\d+)')
_NEXT = re.compile(r'"next_position":(\d+),"ended":(true|false)')
_AT_ONCE = 20


async def follow(socket: ClientConnection) -> dict[str, float]:
    """`end` is the position at the end, `gaps` how often what came did not follow on what was there."""
    position = gaps = dropped = 0
    began_s = 0.0
    while True:
        message = await socket.recv(decode=True)
        began_s = began_s or time.time()
        first, following = _FIRST.search(message, 0, 100), _NEXT.search(message, max(0, len(message) - 100))
        assert following is not None
        gaps += first is not None and int(first[1]) != position
        dropped += message.count('"stream":null')
        position = int(following[1])
        if following[2] == "true":
            return {"end": position, "gaps": gaps, "dropped": dropped, "began_s": began_s, "ended_s": time.time()}


async def main(key: str, urls: list[str]) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with AsyncExitStack() as stack:
        sockets: list[ClientConnection] = []
        for start in range(0, len(urls), _AT_ONCE):
            connections = [
                connect(url, additional_headers=headers, proxy=None, compression=None, ping_interval=None)
                for url in urls[start : start + _AT_ONCE]
            ]
            sockets += await asyncio.gather(*map(stack.enter_async_context, connections))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdout.write(json.dumps(await asyncio.gather(*map(follow, sockets))) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
