"""What every answer tells a browser: to do nothing with it but what it is for."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",  # a ticket may stand in the address
    b"cross-origin-resource-policy": b"same-origin",  # for what pages embed; what CORS allows is not asked about it
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"x-frame-options": b"DENY",
    b"cache-control": b"no-store",
}
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})


class Guarded:
    """Adds `HEADERS` to answers that do not have them. A page that needs scripts brings a policy of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def adding(message: Message) -> Awaitable[None]:
            if message["type"] in _STARTS:
                headers = list(message.get("headers", ()))
                there = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in HEADERS.items() if name not in there]
                message = {**message, "headers": headers}
            return send(message)

        await self._app(scope, receive, adding)
