"""Finds out who is calling, before anything else looks at a request."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.core.errors import Unauthenticated
from portico.core.principal import Authenticator, Principal

OPEN_PATHS = frozenset({"/healthz", "/readyz"})


class Authentication:
    """Lets requests with good credentials through, with their principal in the scope's state. The rest get 401."""

    def __init__(self, app: ASGIApp, authenticators: Sequence[Authenticator]) -> None:
        self._app = app
        self._authenticators = authenticators

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN_PATHS:
            scope.setdefault("state", {})["principal"] = await self._principal(_bearer(scope))
        await self._app(scope, receive, send)

    async def _principal(self, secret: str | None) -> Principal:
        for authenticator in self._authenticators:
            if (principal := await authenticator.authenticate(secret)) is not None:
                return principal
        if secret is None:
            raise Unauthenticated("credentials are missing: send the header Authorization: Bearer TOKEN")
        raise Unauthenticated("the token is not known here")


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal


def _bearer(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, secret = values[0].decode("utf-8", "replace").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None
