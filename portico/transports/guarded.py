"""Headers that tell browsers to use an answer for nothing but its purpose."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GUARDS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address may contain a ticket
    "cross-origin-resource-policy": "same-origin",  # stops pages from embedding; CORS requests are exempt
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_GUARDS = [(name.encode(), value.encode()) for name, value in GUARDS.items()]
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})


class Guarded:
    """Adds `GUARDS` to answers that lack them. A page that needs scripts sets a policy of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def adding(message: Message) -> Awaitable[None]:
            if message["type"] in _STARTS:
                headers = list(message.get("headers", ()))
                there = {name.lower() for name, _ in headers}
                headers += [guard for guard in _GUARDS if guard[0] not in there]
                message = {**message, "headers": headers}
            return send(message)

        await self._app(scope, receive, adding)
