"""A command that is run in a task's container while the task runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from remotegpu.errors import RemoteGpuError, from_status
from remotegpu.live import DONE, connect_live
from remotegpu.transport import Transport

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_STDIN, _STDOUT, _STDERR, _CONTROL = range(4)  # the first byte of each message
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {_STDOUT: "stdout", _STDERR: "stderr"}
_PART = 64 * 2**10
_CONFLICT = 409

Output = tuple[Literal["stdout", "stderr"], bytes]


class Disconnected(RemoteGpuError):
    """The connection broke before the command had ended. The platform ends it."""


class Execution:
    """Made by `client.tasks.exec`, used with `with`: entering starts the command, leaving ends it.

    Output comes by iterating, until the command has ended; `exit_code` is there then. With a terminal all of it is on
    stdout. Input may be sent from another thread.
    """

    def __init__(self, connection: ClientConnection, command: Sequence[str]) -> None:
        self._connection, self._command = connection, command
        self.exit_code: int | None = None

    def send(self, data: bytes) -> None:
        """Input. Waits while the command does not read. Raises: Disconnected."""
        for place in range(0, len(data), _PART):
            self._put(_STDIN, data[place : place + _PART])

    def end_input(self) -> None:
        """Raises: Disconnected."""
        self._put(_STDIN, b"")

    def resize(self, rows: int, columns: int) -> None:
        """Say that the terminal has another size now. Raises: Disconnected."""
        self._put(_CONTROL, msgspec.json.encode({"rows": rows, "cols": columns}))

    def __iter__(self) -> Iterator[Output]:
        """
        Raises:
            Refused: it could not be started, or its task has ended.
            Disconnected
        """
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                frame = self._connection.recv(decode=False)
                if not frame:
                    continue
                if frame[0] == _CONTROL:
                    self._learn(msgspec.json.decode(frame[1:], type=dict[str, Any]))
                elif frame[0] in _STREAMS:
                    yield _STREAMS[frame[0]], frame[1:]
        except ConnectionClosed as closed:
            if closed.rcvd is None or closed.rcvd.code != DONE or self.exit_code is None:
                raise Disconnected("The connection broke; the command is ended.") from closed

    def __enter__(self) -> Execution:
        self._connection.__enter__()
        self._put(_CONTROL, msgspec.json.encode({"command": list(self._command)}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    def _learn(self, document: dict[str, Any]) -> None:  # Any: JSON
        problem = document.get("error")
        if problem is not None:
            raise from_status(status=_CONFLICT, code=str(problem["code"]), detail=str(problem["detail"]))
        if "exit_code" in document:
            self.exit_code = int(document["exit_code"])

    def _put(self, channel: int, data: bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._connection.send(bytes([channel]) + data)
        except ConnectionClosed as closed:
            raise Disconnected("The connection broke; the command is ended.") from closed


def execute(
    transport: Transport, path: str, command: Sequence[str], *, rank: int, terminal: tuple[int, int] | None
) -> Execution:
    """`terminal`: its rows and columns.

    Raises:
        ApiError: the platform refused.
        Disconnected
    """
    size = {} if terminal is None else {"tty": 1, "rows": terminal[0], "cols": terminal[1]}
    try:
        return Execution(connect_live(transport, path, rank=rank, **size), command)
    except OSError as error:
        raise Disconnected(f"{transport.address} can't be reached: {error}") from error
