"""The client's address, scheme and path behind a proxy."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Collection
from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

from portico.transports.mount import PREFIX

UNIX = "unix"
MAX_PREFIX = 256
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*/?")
HEALTH = ("/healthz", "/readyz")
"""The ends of paths that a proxy asks for on its own account, without a client."""

log = logging.getLogger("portico.transports")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyHeaders:
    """Takes the client's address, its scheme and the path that was taken off from X-Forwarded-For, X-Forwarded-Proto
    and X-Forwarded-Prefix if a ``trusted`` proxy sends them. ``trusted`` has addresses, networks, or `UNIX` for anybody
    who comes through a Unix socket.

    uvicorn has such a class, but it does not know Unix sockets, and accepts any text as an address.
    """

    def __init__(self, app: ASGIApp, trusted: Collection[str]) -> None:
        self._app = app
        self._unix = UNIX in trusted
        self._networks = [ipaddress.ip_network(each) for each in trusted if each != UNIX]
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._trusts(_address(scope["client"][0])) if scope.get("client") else self._unix:
            scope = dict(scope)
            if said := _entries(scope, b"x-forwarded-proto"):
                self._take_scheme(scope, said[-1].lower())
            if (said := _entries(scope, b"x-forwarded-prefix")) and said[-1]:
                self._take_prefix(scope, said[-1])
            before = scope.get("client")
            self._take_client(scope, _entries(scope, b"x-forwarded-for"))
            if scope.get("client") == before and not scope["path"].endswith(HEALTH):
                self._tell_once(
                    "a request came from a place of trusted_proxies (%s) without the client's address in "
                    "X-Forwarded-For, so that place stands for it. If a proxy sent it, let the proxy write that header "
                    "itself: nginx `proxy_set_header X-Forwarded-For $remote_addr;`, HAProxy `option forwardfor`, "
                    "Envoy `use_remote_address: true`. If a program there asked directly, such as `portico sessions`, "
                    "all is well. This is said once",
                    before[0] if before else "the Unix socket",
                )
        await self._app(scope, receive, send)

    def _tell_once(self, text: str, value: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning(text, value)

    def _take_prefix(self, scope: Scope, prefix: str) -> None:
        # Only a path: it goes into `Location`, which must not lead to another server.
        if len(prefix) <= MAX_PREFIX and _PREFIX.fullmatch(prefix):
            scope[PREFIX] = prefix.rstrip("/")
        else:
            self._tell_once(
                "a proxy of trusted_proxies sends an X-Forwarded-Prefix that is no path such as /agents, which is "
                "ignored: %s. This is said once",
                ascii(prefix[:MAX_PREFIX]),
            )

    def _take_scheme(self, scope: Scope, scheme: str) -> None:
        if scheme in ("http", "https"):
            scope["scheme"] = scheme if scope["type"] == "http" else scheme.replace("http", "ws")

    def _take_client(self, scope: Scope, said: list[str]) -> None:
        # Each proxy appends the address that it has seen, so any entry before our own proxies' may be made up.
        for entry in reversed(said):
            if (address := _address(entry)) is None:
                return
            scope["client"] = (str(address), 0)
            if not self._trusts(address):
                return

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _entries(scope: Scope, name: bytes) -> list[str]:
    lines = [value.decode("latin-1").split(",") for each, value in scope["headers"] if each == name]
    return [entry.strip() for entry in chain.from_iterable(lines)]


def _address(text: str) -> Address | None:
    """Parse an address, which may have a port: ``192.0.2.1:80``, ``[2001:db8::1]:80``. Return None if it is none."""
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and (host.startswith("[") or ":" not in host):
        text = host
    if "%" in text:
        return None  # any text may follow it
    try:
        found = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return (isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped) or found
