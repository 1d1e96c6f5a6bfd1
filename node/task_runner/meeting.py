"""How the nodes of a task with a Ray of its own go on together: the first says how far it is, and the others follow.

The first one listens; the others connect, show that they know the token, and read words, a line each. Whoever connects
again is told all that was said before, so a broken connection costs nothing.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
import time
from collections.abc import Callable

READY, RUNNING, OVER = "ready", "running", "over"  # said by the first: its Ray answers, its command runs, has ended
JOINED = "joined"  # said by the others: their part of Ray is up
_MOST_LINE = 1000  # bytes
_MOST_CONNECTIONS = 200
_TIMEOUT_S = 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class Meeting:
    """At the first node. `wake` is called in another thread when somebody has joined."""

    def __init__(self, port: int, token: str, wake: Callable[[], None]) -> None:
        self._token, self._wake = token, wake
        self._lock = threading.Lock()
        self._said: list[str] = []
        self._there: set[socket.socket] = set()
        self._joined: set[int] = set()
        self._listener = socket.create_server(("", port))
        threading.Thread(target=self._accept, name="meeting", daemon=True).start()

    @property
    def joined(self) -> int:
        return len(self._joined)

    def say(self, word: str) -> None:
        with self._lock:
            self._said.append(word)
            for connection in list(self._there):
                self._send(connection, word)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if len(self._there) >= _MOST_CONNECTIONS:
                connection.close()
            else:
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        connection.settimeout(_TIMEOUT_S)
        try:
            with connection, connection.makefile("rb") as lines:
                rank = self._rank(lines.readline(_MOST_LINE))
                connection.settimeout(None)
                with self._lock:
                    self._there.add(connection)
                    for word in self._said:
                        self._send(connection, word)
                while lines.readline(_MOST_LINE).decode().strip() == JOINED:
                    self._joined.add(rank)
                    self._wake()
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it connects again, or was none of the nodes
        finally:
            with self._lock:
                self._there.discard(connection)

    def _rank(self, line: bytes) -> int:
        """Raises: ValueError, KeyError, TypeError: it is none of the nodes."""
        document = json.loads(line)
        rank = int(document["rank"])
        if not hmac.compare_digest(str(document["proof"]).encode(), _proof(self._token, rank).encode()):
            raise ValueError("it does not know the token")
        return rank

    def _send(self, connection: socket.socket, word: str) -> None:
        try:
            connection.sendall(word.encode() + b"\n")
        except OSError:
            self._there.discard(connection)


class Visit:
    """At another node: what the first one has said so far. `wake` is called in another thread when it says more."""

    def __init__(self, address: tuple[str, int], token: str, rank: int, wake: Callable[[], None]) -> None:
        self._address, self._rank, self._wake = address, rank, wake
        self._hello = json.dumps({"rank": rank, "proof": _proof(token, rank)}).encode() + b"\n"
        self._joined = threading.Event()
        self._connection: socket.socket | None = None
        self._met_at = time.monotonic()
        self.heard: frozenset[str] = frozenset()
        threading.Thread(target=self._follow, name="visit", daemon=True).start()

    @property
    def away_s(self) -> float:
        """For how long the first one has not been there."""
        return 0.0 if self._connection is not None else time.monotonic() - self._met_at

    def join(self) -> None:
        """Say, from now on, that this node's part is up."""
        self._joined.set()
        connection = self._connection
        if connection is not None:
            try:
                connection.sendall(JOINED.encode() + b"\n")
            except OSError:
                pass  # it is said when it is connected again

    def _follow(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while OVER not in self.heard:
            try:
                with socket.create_connection(self._address, _TIMEOUT_S) as connection:
                    self._listen(connection)
                    pause_s = _FIRST_PAUSE_S
            except OSError:
                pass
            if self._connection is not None:
                self._connection, self._met_at = None, time.monotonic()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _listen(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.sendall(self._hello)
        self._connection = connection
        if self._joined.is_set():
            connection.sendall(JOINED.encode() + b"\n")
        with connection.makefile("rb") as lines:
            while line := lines.readline(_MOST_LINE):
                self.heard |= {line.decode(errors="replace").strip()}
                self._wake()


def _proof(token: str, rank: int) -> str:
    return hmac.digest(token.encode(), f"node {rank}".encode(), "sha256").hex()
