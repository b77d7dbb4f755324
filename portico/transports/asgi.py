"""The ASGI app that every HTTP-speaking transport serves."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from portico.core.engine import Engine
from portico.core.errors import Unavailable
from portico.core.principal import Authenticator
from portico.transports.access import AccessLog
from portico.transports.auth import Authentication
from portico.transports.endpoint import no_such_path, route
from portico.transports.problems import Problems
from portico.transports.sessions import Sessions
from portico.transports.sse import EventRoutes
from portico.transports.streams import Streams


def create_app(
    engine: Engine, authenticators: Sequence[Authenticator], streams: Streams, *, prefix: str, max_body: int
) -> ASGIApp:
    """``prefix`` is the path that the API lies under, such as ``/claude``; ``max_body`` is in bytes."""
    routes = [
        *Sessions(engine, prefix, max_body).routes(),
        *EventRoutes(engine, streams, prefix, max_body).routes(),
        *_health(engine),
    ]
    # Starlette's app class would answer errors itself, in its own way.
    router = Router(routes, redirect_slashes=False, default=no_such_path)
    return AccessLog(Problems(Authentication(router, authenticators)))


def _health(engine: Engine) -> list[Route]:
    async def alive(request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def ready(request: Request) -> Response:
        if reasons := engine.readiness():
            raise Unavailable("; ".join(reasons), code="not_ready", reasons=reasons)
        return Response(b'{"status":"ok"}', media_type="application/json")

    return [route("/healthz", GET=alive), route("/readyz", GET=ready)]
