"""Finds out who is calling, before anything else looks at a request."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.errors import Unauthenticated
from portico.core.principal import Principal
from portico.transports.caller import Caller
from portico.transports.gate import HOW, CallerGate, take_ticket
from portico.transports.refusals import source_of
from portico.transports.routing import admission
from portico.transports.scopes import check_ticket


class Authentication:
    """Lets requests with good credentials through, or from whom the network vouches for. The rest get 401.

    Their `Caller` is in the scope's state, and its principal. A route that is public is for everybody. One that takes
    credentials in the first frame of a WebSocket is reached without a principal, too.
    """

    def __init__(self, app: ASGIApp, gate: CallerGate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticket = take_ticket(scope)
        admitted = admission(scope)
        if not admitted.public:
            caller = await self._gate.enter(scope, ticket)
            if caller is None and not admitted.first_frame:
                raise Unauthenticated(HOW)
            set_caller(scope, caller)
            if caller is not None and caller.ticket is not None:
                check_ticket(scope, caller.ticket, admitted)
        await self._app(scope, receive, send)


def set_caller(scope: Scope, caller: Caller | None) -> None:
    """Note who it is that sends this request, and from where."""
    if caller is not None:
        caller.principal = replace(caller.principal, source=source_of(scope))
    scope.setdefault("state", {}).update(caller=caller, principal=caller.principal if caller else None)


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal
