"""Finds out who is calling, before anything else looks at a request."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.errors import Unauthenticated
from portico.core.principal import Authenticator, Principal

OPEN_PATHS = frozenset({"/healthz", "/readyz"})


class Callers:
    """Asks the authenticators, in order."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def find(self, secret: str | None) -> Principal | None:
        for authenticator in self._authenticators:
            if (principal := await authenticator.authenticate(secret)) is not None:
                return principal
        return None

    async def principal(self, secret: str | None) -> Principal:
        """Who presents ``secret`` (None: nothing was presented). Raises `Unauthenticated`."""
        if (principal := await self.find(secret)) is not None:
            return principal
        if secret is None:
            raise Unauthenticated("credentials are missing: send the header Authorization: Bearer TOKEN")
        raise Unauthenticated("the token is not known here")


class Authentication:
    """Lets requests with good credentials through, with their principal in the scope's state. The rest get 401.

    A WebSocket without an Authorization header gets through without a principal: it may still send its credentials.
    """

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not any(name == b"authorization" for name, _ in scope["headers"]):
            scope.setdefault("state", {})["principal"] = await self._callers.find(None)
        elif scope["type"] == "websocket" or scope["path"] not in OPEN_PATHS:
            scope.setdefault("state", {})["principal"] = await self._callers.principal(_bearer(scope))
        await self._app(scope, receive, send)


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal


def _bearer(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, secret = values[0].decode("utf-8", "replace").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None
