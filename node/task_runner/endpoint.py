"""What a task may say and ask over HTTP, on an address that only its own container reaches.

`POST /progress` {"fraction": 0.3, "line": "..."}; `GET /notice`: what its end is to be, 204 before; `POST /checkpoint`:
its state is written, which during a notice is the end of its time.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .files import Paths, now_ms, write_json

_MOST_BODY = 65_536
_MOST_LINE = 500  # characters
_TIMEOUT_S = 10


class _Refused(Exception):
    """What was sent can't be taken; the message says why."""


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, paths: Paths, on_checkpoint: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.paths, self.on_checkpoint = paths, on_checkpoint
        self.writing = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="endpoint", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        if self.path != "/notice":
            self._answer(404, {"detail": "there is GET /notice"})
        elif not os.path.exists(self.server.paths.notice):
            self._answer(204, None)
        else:
            with open(self.server.paths.notice, encoding="utf-8") as file:
                self._answer(200, json.load(file))

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path == "/progress":
                with self.server.writing:
                    write_json(self.server.paths.progress, _progress(body))
            elif self.path == "/checkpoint":
                self.server.on_checkpoint()
            else:
                self._answer(404, {"detail": "there are POST /progress and POST /checkpoint"})
                return
            self._answer(204, None)
        except _Refused as error:
            self._answer(422, {"detail": str(error)})

    def _body(self) -> object:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MOST_BODY:
            self.close_connection = True
            raise _Refused(f"a body has a Content-Length of at most {_MOST_BODY}")
        content = self.rfile.read(int(length))
        try:
            return json.loads(content) if content.strip() else {}
        except ValueError as error:
            raise _Refused(f"the body is no JSON: {error}") from error

    def _answer(self, status: int, document: object) -> None:
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if content:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """The output is the command's alone."""


def _progress(body: object) -> dict[str, object]:
    if not isinstance(body, dict):
        raise _Refused("the body is an object")
    fraction, line = body.get("fraction"), body.get("line", "")
    number = isinstance(fraction, (int, float)) and not isinstance(fraction, bool) and 0 <= fraction <= 1
    if fraction is not None and not number:
        raise _Refused("`fraction` is a number from 0 to 1")
    if not isinstance(line, str):
        raise _Refused("`line` is a text")
    return {"fraction": fraction, "line": line[:_MOST_LINE], "at_ms": now_ms()}
