"""WebSockets of the platform: opened with the credential in their handshake, refused with problem documents."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from remotegpu.errors import ApiError, ServerFailed
from remotegpu.transport import Transport, problem_error

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

DONE = 1000  # RFC 6455, 7.4.1
_OPEN_S = 10.0
_CLOSE_S = 1.0
_MAX_FRAME = 32 * 2**20


def connect_live(transport: Transport, path: str, **params: int | None) -> ClientConnection:
    """A connection; with new tokens if the old ones have expired. What is None is not asked for.

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


def _open(transport: Transport, path: str, params: dict[str, int | None]) -> ClientConnection:
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect

    address = (
        transport.live_address(path)
        + "?"
        + urlencode({name: value for name, value in params.items() if value is not None})
    )
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
