"""Headers that every answer carries unless its endpoint set its own."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DEFAULTS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not "no-referrer": browsers then send `Origin: null` with our own forms, and those are refused.
    "referrer-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class SecurityHeaders:
    """ASGI middleware. `hsts`: also tell browsers to come by TLS only."""

    def __init__(self, app: ASGIApp, *, hsts: bool) -> None:
        self._app = app
        defaults = _DEFAULTS | ({"strict-transport-security": "max-age=31536000"} if hsts else {})
        self._defaults = [(name.encode(), value.encode()) for name, value in defaults.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                own = {name.lower() for name, _ in headers}
                message["headers"] = [*headers, *(each for each in self._defaults if each[0] not in own)]
            await send(message)

        await self._app(scope, receive, with_headers)
