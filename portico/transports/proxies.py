"""The client's address and scheme behind a proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

UNIX = "unix"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyHeaders:
    """Takes the client's address and scheme from X-Forwarded-For and X-Forwarded-Proto if a ``trusted`` proxy sends
    them. ``trusted`` has addresses, networks, or `UNIX` for anybody who comes through a Unix socket.

    uvicorn has such a class, but it does not know Unix sockets, and accepts any text as an address.
    """

    def __init__(self, app: ASGIApp, trusted: Collection[str]) -> None:
        self._app = app
        self._unix = UNIX in trusted
        self._networks = [ipaddress.ip_network(each) for each in trusted if each != UNIX]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._trusts(_address(scope["client"][0])) if scope.get("client") else self._unix:
            scope = dict(scope)
            if said := _entries(scope, b"x-forwarded-proto"):
                self._take_scheme(scope, said[-1].lower())
            if said := _entries(scope, b"x-forwarded-for"):
                self._take_client(scope, said)
        await self._app(scope, receive, send)

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
