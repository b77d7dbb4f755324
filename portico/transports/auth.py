"""Finds out who is calling, before anything else looks at a request."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.errors import Unauthenticated
from portico.core.principal import Callers, Principal
from portico.transports.dialler import dialler_of

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})


class Authentication:
    """Lets requests with good credentials through, or from whom the network vouches for. The rest get 401.

    Their principal is in the scope's state.

    A WebSocket without an Authorization header gets through without a principal: it may still send its credentials.
    """

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not any(name == b"authorization" for name, _ in scope["headers"]):
            scope.setdefault("state", {})["principal"] = _vouched(scope) or await self._callers.find(None)
        elif scope["type"] == "websocket" or scope["path"] not in OPEN_PATHS:
            secret = _bearer(scope)
            try:
                scope.setdefault("state", {})["principal"] = _vouched(scope) or await self._callers.principal(secret)
            except Unauthenticated as error:
                if secret is not None:
                    raise
                raise Unauthenticated(f"{error.detail}: send the header Authorization: Bearer TOKEN") from None
        await self._app(scope, receive, send)


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal


def _vouched(scope: Scope) -> Principal | None:
    dialler = dialler_of(scope)
    return dialler.principal if dialler else None


def _bearer(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, secret = values[0].decode("utf-8", "replace").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None
