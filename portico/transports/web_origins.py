"""The check of the Origin header: which web pages may use the server, and the CORS headers that tell browsers so."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.transports import wire
from portico.transports.routing import admission

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
RESPONSE_HEADERS = ("Location", "Retry-After")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class OriginCheck:
    """Refuses changes and WebSockets that come from web pages of other origins, unless the origin is ``allowed``.

    As no credentials are in cookies, such a page could do harm only where no token is needed. A route declares whether
    GET changes something, too.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _changes(scope) and not self._is_welcome(Headers(scope=scope)):
            raise wire.RequestRefused(
                "origin_not_allowed", "links and pages of other origins may not start anything here (allowed_origins)"
            )
        await self._app(scope, receive, send)

    def _is_welcome(self, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if not origins:
            # Images and links lack an Origin, but have these (https://w3c.github.io/webappsec-fetch-metadata/).
            # A link in a mail has the site "none", as does an address that somebody types, or a browser restores.
            site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
            return site in ("same-origin", "none") and mode != "navigate"
        if len(origins) > 1:
            return False
        scheme, _, host = origins[0].partition("://")
        # The scheme is not compared with this connection's: a proxy in front may have removed the TLS.
        same = scheme in ("http", "https") and [host] == [value.lower() for value in headers.getlist("host")]
        return same or origins[0] in self._allowed


def _changes(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS or admission(scope).changes


class Cors(CORSMiddleware):
    """Tells browsers that pages of the ``allowed`` origins may use the server and see its answers."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        super().__init__(
            app, allowed, METHODS, REQUEST_HEADERS, expose_headers=RESPONSE_HEADERS, allow_credentials=False
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        if self.is_allowed_origin(request_headers["origin"]):
            return super().preflight_response(request_headers)
        status, headers, body = wire.problem(
            wire.RequestRefused("origin_not_allowed", "pages of this origin may not use this server (allowed_origins)")
        )
        return Response(body, status, headers)
