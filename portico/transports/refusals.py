"""The audit of requests that are refused before the engine sees them, because of their caller or their origin."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.audit import Audit
from portico.core.errors import Exhausted, NotAllowed, NotFound, PorticoError, SessionGone, Unauthenticated
from portico.core.source import Source
from portico.transports.access_log import MAX_PATH
from portico.transports.caller import caller_of
from portico.transports.dialler import dialler_of
from portico.transports.wire import RequestRefused

_TRANSPORT = "portico.transport"


class Refusals:
    """Notes each such refusal in the audit, and raises it again. The requests come over the transport of this name."""

    def __init__(self, app: ASGIApp, audit: Audit, transport: str = "http") -> None:
        self._app = app
        self._audit = audit
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_TRANSPORT] = self._transport
        try:
            await self._app(scope, receive, send)
        except PorticoError as error:
            note_refusal(self._audit, scope, error)
            raise


def note_refusal(audit: Audit, scope: Scope, error: PorticoError) -> None:
    """Note ``error`` in the audit if it refuses a caller for its credentials, Host, Origin, or its ticket's scope.

    The engine notes its own refusals itself.
    """
    caller = caller_of(scope)
    with_ticket = caller is not None and caller.ticket is not None
    guessed = isinstance(error, Exhausted) and error.code == "too_many_attempts"
    if guessed or isinstance(error, Unauthenticated | RequestRefused) or (with_ticket and _is_of_tickets(error)):
        path = scope["raw_path"][:MAX_PATH].decode("ascii", "backslashreplace")
        principal = caller.principal if caller else None
        method = scope.get("method", "WEBSOCKET")
        audit.note("request", error.code, principal, source_of(scope), method=method, path=path)


def _is_of_tickets(error: PorticoError) -> bool:
    if isinstance(error, SessionGone):  # the ticket was for this session
        return False
    return isinstance(error, NotAllowed) or (isinstance(error, NotFound) and error.code == "session_not_found")


def source_of(scope: Scope) -> Source:
    """Return the source of a request. A WebSocket on the transport ``http`` counts as ``websocket``."""
    transport = scope.get(_TRANSPORT, "http")
    if transport == "http" and scope["type"] == "websocket":
        transport = "websocket"
    if dialler := dialler_of(scope):
        return Source(transport, service=dialler.service, caller=dialler.caller)
    client = scope.get("client")
    return Source(transport, address=str(client[0]) if client and client[0] else "unix")
