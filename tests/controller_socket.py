"""The controller's end of its Unix socket, answering every question with the same words."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

UNKNOWN = (
    b'{"when":"unknown","reason":{"code":"no_capacity","detail":"Nobody knows.","position":1,"figures":null,'
    b'"eta":null,"eta_basis":"unknown"},"parts":[]}'
)


@dataclass(slots=True)
class ControllerSocket:
    """`asked` are the paths and bodies that came; with `hangs`, they are answered once that is set."""

    path: Path
    status: int = 200
    body: bytes = UNKNOWN
    asked: list[tuple[str, Any]] = field(default_factory=list)
    hangs: threading.Event | None = None


@contextmanager
def answering(path: Path) -> Iterator[ControllerSocket]:
    """Serve until the end of the block; the path must be short enough for a socket."""
    held = ControllerSocket(path)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.answer(json.loads(body))

        def do_GET(self) -> None:
            self.answer(None)

        def answer(self, asked: Any) -> None:  # Any: JSON
            held.asked.append((self.path, asked))
            if held.hangs is not None:
                held.hangs.wait(30)
            self.send_response(held.status)
            self.send_header("content-length", str(len(held.body)))
            self.end_headers()
            self.wfile.write(held.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingUnixStreamServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, Any]:
            request, _ = super().get_request()
            return request, ("controller", 0)  # the handler wants an address of two parts

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join()
    path.unlink()
