"""Routing that finds the route of a request before any guard decides about it.

A guard that compared paths by itself might see another route than the router does. So guards look at the route that
was found, and that same route handles the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.transports.admission import Admission, admission_of
from portico.transports.endpoint import Endpoint, no_such_path


class Routing:
    """Notes in the scope which of ``routes`` will `handle` the request: the first that matches path and method."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._router = Router(routes)  # only for `Request.url_for` in routes of plugins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["router"] = self._router
        self._find(scope)
        await self._app(scope, receive, send)

    def _find(self, scope: Scope) -> None:
        other: tuple[BaseRoute, Scope] | None = None  # this route has the path, but not the method
        for route in self._router.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found, route=route)
                return
            if match is Match.PARTIAL and other is None:
                other = route, found
        if other is not None:
            scope.update(other[1], route=other[0])


async def handle(scope: Scope, receive: Receive, send: Send) -> None:
    """Let the route that was found answer the request."""
    route: BaseRoute | None = scope.get("route")
    await (route.handle if route is not None else no_such_path)(scope, receive, send)


def admission(scope: Scope) -> Admission:
    """Return the rule of the route that was found; the default if there is none."""
    endpoint = scope.get("endpoint")
    return endpoint.admission(scope["method"]) if isinstance(endpoint, Endpoint) else admission_of(endpoint)
