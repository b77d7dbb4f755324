"""The access log: one line for each request or WebSocket, at its end.

It never contains a query string, which may hold text that a user wrote.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portico.transports.dialler import dialler_of

log = logging.getLogger("portico.access")

CLIENT_GONE = 499
"""Nginx's status for a client that left before it had an answer."""
MAX_PATH = 256


Ended = Callable[[Scope, int, float | None], None]
"""A callback for each request: its scope, status, and the seconds until its answer began (None if it had none)."""


class AccessLog:
    """Writes the log. The status of a WebSocket is its close code, whichever side closed it."""

    def __init__(self, app: ASGIApp, ended: Ended = lambda scope, status, began: None) -> None:
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.monotonic()
        status, sent = CLIENT_GONE, 0
        began: float | None = None

        def counting(message: Message) -> Awaitable[None]:  # not a coroutine itself, as it is called for each event
            nonlocal status, sent, began
            match message["type"]:
                case "http.response.body" | "websocket.http.response.body":
                    sent += len(message.get("body", b""))
                case "websocket.send":
                    sent += len(message.get("text") or "") + sum(map(len, message.get("texts", ())))
                case "http.response.start" | "websocket.http.response.start":
                    status, began = message["status"], time.monotonic() - start
                case "websocket.accept":
                    began = time.monotonic() - start
                case "websocket.close":
                    status = message.get("code", 1000)
            return send(message)

        async def noticing() -> Message:
            nonlocal status
            message = await receive()
            if message["type"] == "websocket.disconnect":
                status = message.get("code", status)
            return message

        try:
            await self._app(scope, noticing, counting)
        finally:
            self._ended(scope, status, began)
            principal = scope.get("state", {}).get("principal")
            fields = {
                "method": scope.get("method", "WEBSOCKET"),
                "path": scope["raw_path"][:MAX_PATH].decode("ascii", "backslashreplace"),
                "status": status,
                "duration_ms": round((time.monotonic() - start) * 1000, 1),
                "principal": principal.name if principal else "-",
                "bytes": sent,
                "client": client[0] if (client := scope.get("client")) else "-",
            }
            text = "%s %s %d %.1fms %s %dB from %s"
            if dialler := dialler_of(scope):
                fields |= {"service": dialler.service, "caller": dialler.caller}
                text += " over %s by %r"  # quoted: anybody can make up such a name
            log.info(text, *fields.values(), extra=fields)
