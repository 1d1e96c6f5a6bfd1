"""The output of an attempt: read as far as it goes, or followed to its end across broken connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from remotegpu.errors import ApiError, ConnectionFailed, ServerFailed
from remotegpu.models import LogBatch
from remotegpu.transport import Transport, problem_error

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

GIVE_UP_S = 300.0
"""How long a connection may be away before following ends with an error."""

_SILENCE_S = 1.0
_OPEN_S = 10.0
_CLOSE_S = 1.0
_MAX_PAUSE_S = 5.0
_MAX_FRAME = 32 * 2**20
_DONE = 1000  # RFC 6455, 7.4.1
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
) -> Iterator[LogBatch]:
    """What there is now of an attempt's output, or of an element's, from `position`. `stream`: of one of them only."""
    while True:
        batch = transport.get(
            path, LogBatch, attempt=attempt, rank=rank, position=position, stream=stream, element=element
        )
        yield batch
        if batch.ended or batch.next_position <= position:
            return
        attempt, position = batch.attempt, batch.next_position  # what goes on is the same attempt's


def follow(
    transport: Transport, path: str, *, attempt: int, rank: int, position: int, give_up_s: float = GIVE_UP_S
) -> Iterator[LogBatch | None]:
    """An attempt's output from `position` until it has ended and all was sent; None in each second of silence.

    A broken connection is made again, and goes on where it broke.

    Raises:
        ConnectionFailed: it could not be made again within `give_up_s`.
        NotFound: there is no such attempt.
    """
    from websockets.exceptions import ConnectionClosed  # slow to import, and most commands need none

    away_since, pause_s, last = time.monotonic(), 0.1, ""
    while True:
        try:
            with _connect(transport, path, attempt=attempt, rank=rank, position=position) as socket:
                while True:
                    batch = _receive(socket)
                    if batch is not None:
                        position = batch.next_position
                    away_since, pause_s = time.monotonic(), 0.1
                    yield batch
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == _DONE:
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


def _connect(transport: Transport, path: str, **params: int) -> ClientConnection:
    """A connection; with new tokens if the old ones have expired.

    Raises:
        ApiError: the platform refused; ServerFailed also where something else answers for now.
        OSError: it can't be reached.
    """
    try:
        return _open(transport, path, params)
    except ApiError as error:
        if error.status != 401 or not transport.may_refresh:
            raise
        transport.refresh()
        return _open(transport, path, params)


def _open(transport: Transport, path: str, params: dict[str, int]) -> ClientConnection:
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect

    address = transport.live_address(path) + "?" + urlencode(params)
    try:
        # Compression would be what limits the speed.
        return connect(
            address, additional_headers=transport.authorization(), compression=None, open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S, max_size=_MAX_FRAME,
        )  # fmt: skip
    except InvalidStatus as error:
        reply = error.response
        said = problem_error(reply.status_code, bytes(reply.body or b""), address=address)
        busy = reply.status_code == 429 or 300 <= reply.status_code < 400
        raise ServerFailed(status=reply.status_code, code=said.code, detail=said.detail) if busy else said from error
    except InvalidHandshake as error:
        raise ServerFailed(status=502, code="unknown", detail=f"{address} is no WebSocket: {error}") from error
