"""One path: which methods it answers, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from portico.transports.admission import DEFAULT, PUBLIC, Admission, admission_of
from portico.transports.operation import operation_of
from portico.transports.wire import HttpError

Handler = Callable[..., Awaitable[Response]]

MAX_BODY = 1024 * 1024


class Endpoint:
    """The ``handlers`` of a path, by method. Those that are an `Operation` are given what it reads."""

    def __init__(self, handlers: Mapping[str, Handler], max_body: int) -> None:
        self.handlers = handlers
        self._max_body = max_body

    def admission(self, method: str) -> Admission:
        """Who may use ``method``; where it has no handler, who is told so."""
        if (handler := self.handlers.get(method)) is not None:
            return admission_of(handler)
        return PUBLIC if all(admission_of(each).public for each in self.handlers.values()) else DEFAULT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self.handlers.get(scope["method"])
        if handler is None:
            raise method_not_allowed(*self.handlers)
        request, known = Request(scope, receive), operation_of(handler)
        response = await handler(request, **(await known.read(request, self._max_body) if known else {}))
        await response(scope, receive, send)


def route(path: str, *, head: bool = True, max_body: int = MAX_BODY, **handlers: Handler) -> Route:
    """``path`` with a handler for each method; ``max_body`` is in bytes. Starlette's own routes would answer HEAD
    wherever they answer GET, and name only some of the methods in ``Allow``. With ``head`` HEAD is answered as GET is,
    without its body."""
    if head and "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]
    return Route(path, Endpoint(handlers, max_body))


async def no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise HttpError(404, "not_found", "there is nothing at this path")


def method_not_allowed(*allowed: str) -> HttpError:
    methods = ", ".join(sorted(allowed))
    return HttpError(405, "method_not_allowed", f"this path answers {methods}", {"allow": methods})
