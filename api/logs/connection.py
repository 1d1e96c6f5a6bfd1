"""What holds for every WebSocket of a task: how it ends, and that it ends with the right to it."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import cast

from anyio import create_task_group
from fastapi import WebSocket
from psycopg import Error as ReadFailure

from api.errors import Unauthenticated
from api.identity.authentication import Authenticator

CHECK_AGAIN_S = 60.0  # whether whoever follows still may
DONE, AGAIN, NOT_ALLOWED = 1000, 1013, 4401  # codes of closing; the second: go on from the last position

Ending = Coroutine[None, None, int | None]

_log = logging.getLogger(__name__)


async def serve(websocket: WebSocket, sending: Ending, receiving: Ending | None = None) -> None:
    """Run `sending` and `receiving`, each of which returns with which code to close, None: it is closed.

    The first of them ends the other, as it ends when the client leaves, or is no longer let in. Without `receiving`
    what the client sends means nothing.
    """
    code = await _first(sending, receiving or _gone(websocket), _refused(websocket))
    if code is not None:
        await websocket.close(code)


async def _first(*endings: Ending) -> int | None:
    """What the first of them returns; the others end with it."""
    found: list[int | None] = []
    async with create_task_group() as group:

        async def await_one(ending: Ending) -> None:
            found.append(await ending)
            group.cancel_scope.cancel()

        for ending in endings:
            group.start_soon(await_one, ending)
    return found[0]


async def _gone(websocket: WebSocket) -> None:
    """Wait until the client has left; what it sends means nothing."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _refused(websocket: WebSocket) -> int:
    """Wait until whoever follows is no longer let in."""
    authenticator = cast(Authenticator, websocket.app.state.authenticator)
    while True:
        await asyncio.sleep(CHECK_AGAIN_S)
        try:
            await authenticator.authenticate(websocket.headers.get("authorization"), address=None)
        except Unauthenticated:
            return NOT_ALLOWED
        except ReadFailure as error:
            _log.warning("looking whether a follower is still let in failed, trying again: %s", error)
