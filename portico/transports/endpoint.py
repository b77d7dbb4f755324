"""One path: which methods it answers, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from portico.transports.wire import HttpError

Handler = Callable[[Request], Awaitable[Response]]


class _Endpoint:
    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["method"])
        if handler is None:
            raise method_not_allowed(*self._handlers)
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


def route(path: str, *, head: bool = True, **handlers: Handler) -> Route:
    """``path`` with a handler for each method. Starlette's own routes would answer HEAD wherever they answer GET, and
    name only some of the methods in ``Allow``. With ``head`` HEAD is answered as GET is, without its body."""
    if head and "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]
    return Route(path, _Endpoint(handlers))


async def no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise HttpError(404, "not_found", "there is nothing at this path")


def method_not_allowed(*allowed: str) -> HttpError:
    methods = ", ".join(sorted(allowed))
    return HttpError(405, "method_not_allowed", f"this path answers {methods}", {"allow": methods})
