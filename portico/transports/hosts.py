"""The check of the Host header against the names of the server (it prevents DNS rebinding)."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from portico.transports.routing import admission
from portico.transports.wire import RequestRefused

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
ANY = "*"
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104


def allowed_names(host: str, further: Collection[str]) -> frozenset[str]:
    """Return the names for `HostCheck`: the loopback names, ``host`` unless it is a wildcard, and ``further`` ones."""
    names = {*further, host} - _WILDCARDS
    return LOOPBACK | {f"[{name}]" if ":" in name else name.lower() for name in names}


class HostCheck:
    """Refuses requests for names that are not ``allowed`` (lower case, IPv6 in brackets, without ports; or `ANY`)."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        checked = ANY not in self._allowed and not admission(scope).any_host
        if checked and host_name(scope) not in self._allowed:
            raise RequestRefused("host_not_allowed", "the server does not answer to this name (allowed_hosts)")
        await self._app(scope, receive, send)


def host_name(scope: Scope) -> str | None:
    """Return the name in the Host header; None unless there is exactly one good header (RFC 9112, 3.2)."""
    values = [value for name, value in scope["headers"] if name == b"host"]
    if len(values) != 1:
        return None
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+?)\.?(:[0-9]*)?", values[0].decode("latin-1").lower())
    return found[1] if found else None
