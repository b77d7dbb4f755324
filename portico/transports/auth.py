"""Authentication, which finds the caller before anything else looks at a request."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.errors import Unauthenticated
from portico.core.principal import Principal
from portico.transports.caller import Caller
from portico.transports.gate import HOW, CallerGate, take_ticket
from portico.transports.page_guard import PageGuard
from portico.transports.refusals import source_of
from portico.transports.routing import admission
from portico.transports.scopes import check_ticket
from portico.transports.web_origins import acts


class Authentication:
    """Passes on requests with good credentials, and those whose caller the network vouches for. Others get 401.

    The scope's state then holds the `Caller` and its principal. A public route is open to everybody. A route that
    takes credentials in the first frame of a WebSocket can also be reached without a principal. ``guard`` looks at the
    requests of callers that need no credentials.
    """

    def __init__(self, app: ASGIApp, gate: CallerGate, guard: PageGuard) -> None:
        self._app = app
        self._gate = gate
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticket = take_ticket(scope)
        admitted = admission(scope)
        if not admitted.public:
            caller = await self._gate.enter(scope, ticket)
            if caller is None and not admitted.first_frame:
                raise Unauthenticated(HOW)
            set_caller(scope, caller)
            if caller is not None and acts(scope) and await self._gate.needs_nothing(caller):
                self._guard.check(scope)
            if caller is not None and caller.ticket is not None:
                check_ticket(scope, caller.ticket, admitted)
        await self._app(scope, receive, send)


def set_caller(scope: Scope, caller: Caller | None) -> None:
    """Note the caller of this request, and where it comes from."""
    if caller is not None:
        caller.principal = replace(caller.principal, source=source_of(scope))
    scope.setdefault("state", {}).update(caller=caller, principal=caller.principal if caller else None)


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal
