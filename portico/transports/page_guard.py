"""The guard against web pages where callers need no token: their requests act only if no page can have sent them.

A request that is let in by where it comes from (a Ziti service, a Unix socket, ``auth=none``) might be a page's: the
browser sends it from the same place. `OriginCheck` sees that by the headers that browsers add, but they add none to an
image, a link or another plain GET on plain HTTP. So such a request acts only if a page can't send it without asking
first (CORS), or if its Origin is a page that is allowed. A page under a name that is not the server's own (DNS
rebinding) may send any GET without asking, and without an Origin.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import Scope

from portico.transports.gate import bearer
from portico.transports.hosts import ANY, host_name
from portico.transports.operation import IDEMPOTENCY_KEY, X_PORTICO
from portico.transports.wire import RequestRefused

_SIMPLE = frozenset({"GET", "HEAD", "POST"})
"""The methods that a page may send without asking first (https://fetch.spec.whatwg.org/#cors-safelisted-method)."""
_UNMARKED = frozenset({"GET", "HEAD"})
"""The methods that browsers send without an Origin to where the page is from."""
_PROOFS = frozenset({X_PORTICO.name.lower(), IDEMPOTENCY_KEY.name.lower()})
"""Headers that prove it, with any value. No page sends one without asking first; no browser adds one by itself."""

HOW = (
    "no token is needed here, so any web page could have sent this request: send the header `X-Portico: 1` too "
    "(a query also as JSON with POST, or with a ticket)"
)
HOW_ELSE = (
    "no token is needed here, and by this name (Host) a web page may send any GET, whatever headers it has: ask by a "
    "name of the server's (localhost, allowed_hosts), or with POST, or with a ticket"
)


class PageGuard:
    """Refuses requests that act and that a page may have sent. Pages of the ``origins`` may send them, and those of the
    server's own ``hosts`` (`ANY`: whatever Host they name).
    """

    def __init__(self, origins: Collection[str], hosts: Collection[str]) -> None:
        self._origins = origins
        self._hosts = hosts

    def check(self, scope: Scope) -> None:
        """Raise `RequestRefused` for such a request, which acts. Its Origin, if it has one, was let through by
        `OriginCheck`."""
        headers = Headers(scope=scope)
        own_name = ANY in self._hosts or host_name(scope) in self._hosts
        if (origin := headers.get("origin")) is not None:
            if not (origin in self._origins or own_name):
                raise RequestRefused(
                    "origin_not_allowed", "pages of this name may not start anything here (allowed_hosts)"
                )
        elif scope["type"] == "http":
            if not own_name and scope["method"] in _UNMARKED:
                raise RequestRefused("origin_unproven", HOW_ELSE)
            if not _is_of_no_page(scope["method"], headers):
                raise RequestRefused("origin_unproven", HOW)


def _is_of_no_page(method: str, headers: Headers) -> bool:
    """Tell whether no web page can have sent a request that has no Origin."""
    if method not in _SIMPLE or not _PROOFS.isdisjoint(headers) or headers.get("sec-fetch-site") == "same-origin":
        return True
    if any(value.strip() for value in headers.getlist("last-event-id")):  # with an empty one a query runs
        return True
    # Of the Authorizations only a token: a browser adds `Basic` by itself, once somebody has typed a password.
    if bearer(headers.getlist("authorization")) is not None:
        return True
    if method != "POST":
        return False
    # A page can't send JSON without asking first, and a form always has a type. Browsers add an Origin to every POST;
    # this only asks for more than that.
    kinds = {kind.partition(";")[0].strip().lower() for kind in headers.getlist("content-type") if kind.strip()}
    return kinds <= {"application/json"}
