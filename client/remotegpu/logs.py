"""The output of an attempt: read as far as it goes, or followed to its end across broken connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from remotegpu.errors import ConnectionFailed, ServerFailed
from remotegpu.live import DONE, connect_live
from remotegpu.models import LogBatch
from remotegpu.transport import Transport

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

GIVE_UP_S = 300.0
"""How long a connection may be away before following ends with an error."""

_SILENCE_S = 1.0
_MAX_PAUSE_S = 5.0
_batches = msgspec.json.Decoder(LogBatch)


def read(
    transport: Transport,
    path: str,
    *,
    attempt: int | None,
    rank: int,
    position: int,
    stream: str | None,
    element: int | None = None,
    limit: int | None = None,
) -> Iterator[LogBatch]:
    """What there is now of an attempt's output, or of an element's, from `position`. `stream`: of one of them only."""
    while True:
        batch = transport.get(
            path, LogBatch, attempt=attempt, rank=rank, position=position, stream=stream, element=element, limit=limit
        )
        yield batch
        if batch.ended or batch.next_position <= position:
            return
        attempt, position = batch.attempt, batch.next_position  # what goes on is the same attempt's


def follow(
    transport: Transport,
    path: str,
    *,
    attempt: int | None,
    rank: int,
    position: int,
    element: int | None = None,
    give_up_s: float = GIVE_UP_S,
) -> Iterator[LogBatch | None]:
    """An attempt's output from `position` until it has ended and all was sent; None in each second of silence.

    Of an `element` it is that of all its tries from that one on, without an `attempt` from the newest on. A broken
    connection is made again, and goes on where it broke.

    Raises:
        ConnectionFailed: it could not be made again within `give_up_s`.
        NotFound: there is no such attempt or element.
    """
    from websockets.exceptions import ConnectionClosed  # slow to import, and most commands need none

    away_since, pause_s, last = time.monotonic(), 0.1, ""
    while True:
        try:
            where = {"attempt": attempt, "rank": rank, "position": position, "element": element}
            with connect_live(transport, path, **where) as socket:
                while True:
                    batch = _receive(socket)
                    if batch is not None:
                        attempt, position = batch.attempt or attempt, batch.next_position
                    away_since, pause_s = time.monotonic(), 0.1
                    yield batch
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == DONE:
                return
        except (OSError, ServerFailed) as error:
            last = f": {error}"  # it is away, starting or has too many followers: another try tells
        if time.monotonic() - away_since > give_up_s:
            raise ConnectionFailed(f"{transport.address} has not let us follow for {give_up_s:.0f} s{last}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _MAX_PAUSE_S)


def _receive(socket: ClientConnection) -> LogBatch | None:
    try:
        return _batches.decode(socket.recv(timeout=_SILENCE_S))
    except TimeoutError:
        return None
