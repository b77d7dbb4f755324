"""The conversion of errors into answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from portico.core.errors import PorticoError
from portico.transports import wire
from portico.transports.frames import subprotocol_of

log = logging.getLogger("portico.http")


class Problems:
    """Answers every exception with a problem document, or with a close code on a WebSocket.

    An exception that is not a `PorticoError` is a fault of ours: it is logged, and the client learns no details.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        def watching(message: Message) -> Awaitable[None]:
            nonlocal started
            started = started or message["type"] in ("http.response.start", "websocket.accept")
            return send(message)

        what = scope.get("method", "WEBSOCKET")
        try:
            await self._app(scope, receive, watching)
            return
        except (ClientDisconnect, WebSocketDisconnect):
            return
        except PorticoError as error:
            problem = error
            if started and scope["type"] == "http":
                log.warning("%s: the answer broke off: %s", what, error.detail)
        except Exception:
            log.exception("%s: a fault in the server", what)
            problem = PorticoError("a fault in the server; its log says more")
        if scope["type"] == "websocket" and not isinstance(problem, wire.RequestRefused):
            await _close(scope, send, problem, accept=not started)
        # Once an answer has begun, only the server can cut it off; the client then sees that it is not complete.
        elif not started:
            status, headers, body = wire.problem(problem)
            await Response(body, status, headers)(scope, receive, watching)


async def _close(scope: Scope, send: Send, problem: PorticoError, *, accept: bool) -> None:
    # Browsers tell a page the code of a close, but not the status of a handshake.
    code, reason = wire.close_code(problem)
    with suppress(OSError):  # the client has gone
        if accept:
            await send({"type": "websocket.accept", "subprotocol": subprotocol_of(scope), "headers": []})
        await send({"type": "websocket.close", "code": code, "reason": reason})
