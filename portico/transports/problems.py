"""Turns errors into answers."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portico.core.errors import PorticoError
from portico.transports import wire

log = logging.getLogger("portico.http")


class Problems:
    """Answers every exception with a problem document. What is no `PorticoError` is our fault: logged, not told."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watching(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watching)
            return
        except ClientDisconnect:
            return
        except PorticoError as error:
            problem = error
            if started:
                log.warning("%s: the answer broke off: %s", scope["method"], error.detail)
        except Exception:
            log.exception("%s: a fault in the server", scope["method"])
            problem = PorticoError("the server has failed to do this; its log says more")
        # Once an answer has begun, all that is left is to let the server cut it off: the client sees that it is no end.
        if not started:
            status, headers, body = wire.problem(problem)
            await Response(body, status, headers)(scope, receive, watching)
