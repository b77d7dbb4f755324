"""The check of the Origin header: which web pages may use the server, and the CORS headers that tell browsers so."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from portico.transports import wire
from portico.transports.routing import admission

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Portico")
RESPONSE_HEADERS = ("Location", "Retry-After")
MAX_NAME = 256
PROXIED = frozenset({"x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via"})
"""Headers that proxies add."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class OriginCheck:
    """Refuses changes and WebSockets that come from web pages of other origins, unless the origin is ``allowed``.

    As no credentials are in cookies, such a page could do harm only where no token is needed; there `PageGuard` asks
    for more.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if acts(scope) and not self._is_welcome(headers := Headers(scope=scope)):
            detail = "links and pages of other origins may not start anything here (allowed_origins)"
            raise wire.RequestRefused("origin_not_allowed", detail + _rewritten(headers))
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


def _rewritten(headers: Headers) -> str:
    """Return more for the detail if a proxy may have put another name into Host, so that Origin does not match it."""
    origin, host = headers.get("origin", "")[:MAX_NAME], headers.get("host", "")[:MAX_NAME]
    name = origin.partition("://")[2]
    forwarded = headers.get("x-forwarded-host", "").rpartition(",")[2].strip()
    if not name or name == host:
        return ""
    if name == forwarded or headers.get("sec-fetch-site") == "same-origin":  # a page can't make up the latter
        doubt = "this page is the server's own, but a proxy has"
    elif (_inner(host) and (not _inner(name) or not PROXIED.isdisjoint(headers))) or host == name.rpartition(":")[0]:
        doubt = f"if {origin} is this server's own name, a proxy has"
    else:
        return ""
    return (
        f"; {doubt} rewritten Host to {host}: let it pass the client's on (nginx `proxy_set_header Host $http_host;`, "
        "Apache `ProxyPreserveHost On`)"
    )


def _inner(host: str) -> bool:
    """Tell whether ``host`` looks like the address by which a proxy reaches a server, and not like a public name."""
    name = host.rpartition(":")[0] if re.search(r":[0-9]*$", host) else host
    return "." not in name or re.fullmatch(r"[0-9.]+|\[.*\]", name) is not None


def acts(scope: Scope) -> bool:
    """Tell whether the request changes something; its route declares whether GET does."""
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
