"""The largest body that is taken. Starlette's own limit answers in plain text; this one with a problem document."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem


@dataclass(frozen=True, slots=True)
class LargeBody:
    """An address that takes larger bodies than others, and does not keep them in memory. `path` is a whole path's."""

    method: str
    path: re.Pattern[str]
    max_bytes: int


class BodyLimit:
    """ASGI middleware: refuses a body by its declared length before it is read, and one that does not declare it as
    soon as it is too large."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, larger: Sequence[LargeBody] = ()) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._limit(scope)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
            detail = f"The body is larger than the {max_bytes} bytes that this address takes."
            await problem(413, "too_large", detail, headers={"connection": "close"})(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413)  # the application's handlers make the document
            return message

        await self._app(scope, counted, send)

    def _limit(self, scope: Scope) -> int:
        for large in self._larger:
            if scope["method"] == large.method and large.path.fullmatch(scope["path"]):
                return large.max_bytes
        return self._max_bytes
