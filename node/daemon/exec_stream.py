"""A command that Docker runs beside a container's own: its input, its output, and how far each is taken.

Nothing is read ahead while it runs: whoever does not take the output makes it wait, as with any pipe that is full.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

STDOUT, STDERR = 1, 2
MOST_OUTPUT = 256 * 2**10  # bytes of one answer, both streams together
_MOST_AHEAD = 4 * 2**20
_AT_ONCE_S = 0.02
_READ_BYTES = 64 * 2**10
_END_OF_TRANSMISSION = b"\x04"
_HEADER = struct.Struct(">BxxxI")  # Docker's: of which stream, and how many bytes follow


@dataclass(slots=True)
class Frames:
    """Takes Docker's framing off, whatever the parts are that it comes in. With a terminal there is none."""

    plain: bool
    _header: bytes = b""
    _stream: int = STDOUT
    _left: int = 0

    def taken(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Streams and what was written to them."""
        if self.plain:
            yield STDOUT, data
            return
        while data:
            if not self._left:
                need = _HEADER.size - len(self._header)
                self._header, data = self._header + data[:need], data[need:]
                if len(self._header) < _HEADER.size:
                    return
                self._stream, self._left = _HEADER.unpack(self._header)
                self._header = b""
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if part:
                yield self._stream, part


@dataclass(slots=True)
class Output:
    """`over`: no more follows."""

    streams: dict[int, bytearray] = field(default_factory=lambda: {STDOUT: bytearray(), STDERR: bytearray()})
    over: bool = False

    @property
    def size(self) -> int:
        return sum(map(len, self.streams.values()))


class ExecStream:
    """Safe to use from many threads: one reads at a time, and one writes. `attached` is Docker's socket."""

    def __init__(self, attached: Any, *, tty: bool) -> None:  # Any: of docker, without types
        self._socket, self._ahead = _taken_over(attached)
        self._attached = attached  # keeps the connection open
        self._frames = Frames(plain=tty)
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._closed = False

    def read(self, wait_s: float) -> Output:
        """What there is, as soon as there is any, and at most `MOST_OUTPUT` of it."""
        output, until = Output(), time.monotonic() + wait_s
        with self._reading:
            while not output.over and output.size < MOST_OUTPUT:
                data = self._received(MOST_OUTPUT - output.size)
                if data is None:
                    if output.size or not self._ready(until, write=False):
                        break
                    continue
                output.over = not data
                for stream, part in self._frames.taken(data):
                    output.streams.setdefault(stream, bytearray()).extend(part)
            output.over = output.over or self._closed
        return output

    def write(self, data: bytes, wait_s: float) -> int:
        """How many of the bytes were taken within the time. What nobody reads any more is taken too."""
        taken, until = 0, time.monotonic() + wait_s
        with self._writing:
            while taken < len(data):
                try:
                    taken += self._socket.send(data[taken:])
                except BlockingIOError:
                    if not self._ready(until, write=True):
                        break
                except OSError:
                    return len(data)
        return taken

    def end_input(self) -> None:
        """At a terminal what is typed for it: Docker takes the end of its input for the end of all."""
        with self._writing, contextlib.suppress(OSError):
            if self._frames.plain:
                self._socket.send(_END_OF_TRANSMISSION)
            else:
                self._socket.shutdown(socket.SHUT_WR)

    def waits_for_reader(self) -> bool:
        """Whether there is output that nobody is taking."""
        if self._reading.locked() or self._closed:
            return False
        return self._ready(time.monotonic() + _AT_ONCE_S, write=False)

    def take_in(self) -> None:
        """Keep what is left of the output of a command that has ended: Docker drops it when it is not taken in 2 s.

        It is what pipes hold, and no more.
        """
        if not self._reading.acquire(blocking=False):
            return
        try:
            ahead = bytearray(self._ahead)
            while len(ahead) < _MOST_AHEAD:
                data = self._received_now(_READ_BYTES)
                if data == b"" or (data is None and not self._ready(time.monotonic() + _AT_ONCE_S, write=False)):
                    break
                ahead += data or b""
            self._ahead = bytes(ahead)
        finally:
            self._reading.release()

    def close(self) -> None:
        """Whoever reads or writes is sent away first, so that no descriptor is closed under them."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._reading, self._writing:
            self._attached.close()
            self._socket.close()

    def _received(self, most: int) -> bytes | None:
        """None: nothing yet; no bytes: no more will come."""
        if self._ahead:
            ahead, self._ahead = self._ahead[:most], self._ahead[most:]
            return ahead
        return self._received_now(most)

    def _received_now(self, most: int) -> bytes | None:
        try:
            return self._socket.recv(min(most, _READ_BYTES))
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _ready(self, until: float, *, write: bool) -> bool:
        left_s = until - time.monotonic()
        if left_s <= 0 or self._closed:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT if write else select.POLLIN)
        return bool(poll.poll(left_s * 1000))


def _taken_over(attached: Any) -> tuple[socket.socket, bytes]:
    """The socket itself, and what was read from it together with the head of Docker's answer."""
    own: socket.socket = getattr(attached, "_sock", attached)
    own.setblocking(False)
    response = getattr(attached, "_response", None)
    if response is None:
        return own, b""
    buffered = response.raw._fp.fp
    return own, buffered.read1(len(buffered.peek()))
