"""The endpoint of one path, with a handler for each method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from portico.transports.admission import DEFAULT, PUBLIC, Admission, admission_of
from portico.transports.body import check_length
from portico.transports.operation import operation_of
from portico.transports.wire import HttpError

Handler = Callable[..., Awaitable[Response]]
Check = Callable[[Request], Awaitable[object]]

MAX_BODY = 1024 * 1024
NO_BODY = 4 * 1024
"""The limit in bytes for a body that is not read: some clients send ``{}``."""


class Endpoint:
    """The ``handlers`` of a path, by method. A handler that is an `Operation` gets the values that it reads.

    A body is read only after ``check``, which raises if the request must be refused whatever its body is.
    """

    def __init__(self, handlers: Mapping[str, Handler], max_body: int, check: Check | None = None) -> None:
        self.handlers = handlers
        self.max_body = max_body
        self._check = check

    def admission(self, method: str) -> Admission:
        """Return the rule for ``method``; without a handler, the rule for who may learn that there is none."""
        if (handler := self.handlers.get(method)) is not None:
            return admission_of(handler)
        return PUBLIC if all(admission_of(each).public for each in self.handlers.values()) else DEFAULT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self.handlers.get(scope["method"])
        if handler is None:
            raise method_not_allowed(*self.handlers)
        request, known = Request(scope, receive), operation_of(handler)
        if known is not None and known.has_body:
            if self._check is not None:
                await self._check(request)
        elif known is not None:
            check_length(request, NO_BODY)
        response = await handler(request, **(await known.read(request, self.max_body) if known else {}))
        await response(scope, receive, send)


def route(
    path: str, *, head: bool = True, max_body: int = MAX_BODY, check: Check | None = None, **handlers: Handler
) -> Route:
    """Make a route for ``path`` with a handler for each method; ``max_body`` is in bytes, ``check`` as in `Endpoint`.

    Starlette's own routes would answer HEAD wherever they answer GET, and name only some of the methods in ``Allow``.
    With ``head``, HEAD is answered like GET, without its body.
    """
    if head and "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]
    return Route(path, Endpoint(handlers, max_body, check))


async def no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise HttpError(404, "not_found", "there is nothing at this path")


def method_not_allowed(*allowed: str) -> HttpError:
    methods = ", ".join(sorted(allowed))
    return HttpError(405, "method_not_allowed", f"this path answers {methods}", {"allow": methods})
