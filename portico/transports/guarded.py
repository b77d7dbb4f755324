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
STREAM_GUARDS = {**GUARDS, "cache-control": "no-store, no-transform"}
"""The headers of event streams: a proxy that compresses one may hold events back until it has enough of them."""
_GUARDS, _STREAM_GUARDS = ([(k.encode(), v.encode()) for k, v in each.items()] for each in (GUARDS, STREAM_GUARDS))
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})


class Guarded:
    """Adds `GUARDS` (`STREAM_GUARDS`) to answers that lack them. A page that needs scripts sets a policy of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def adding(message: Message) -> Awaitable[None]:
            if message["type"] in _STARTS:
                headers = list(message.get("headers", ()))
                there = {name.lower(): value for name, value in headers}
                streams = there.get(b"content-type", b"").lower().startswith(b"text/event-stream")
                headers += [guard for guard in (_STREAM_GUARDS if streams else _GUARDS) if guard[0] not in there]
                message = {**message, "headers": headers}
            return send(message)

        await self._app(scope, receive, adding)
