"""A brake on guessing: after some failures in a row an address has to wait between two attempts."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

from starlette.types import Scope

from portico.core.errors import Exhausted
from portico.core.principal import Callers, Principal
from portico.transports.dialler import dialler_of

FREE_FAILURES = 20
"""Failures in a row before an address has to wait."""
PAUSE_SECONDS = 5.0
"""The time after which one failure is forgotten."""
ADDRESSES = 4096
"""The most addresses that are remembered, and the most good credentials. The oldest are forgotten first."""
LABEL_LENGTH = 128

log = logging.getLogger("portico.auth")


class Attempts:
    """The attempts from each address.

    Credentials that were good before at the same address always pass, whatever others do there: behind a proxy all
    clients may share one address.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._good: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def check(self, address: str, secret: str) -> None:
        """Raise `Exhausted` (``too_many_attempts``) if the address has to wait."""
        wait = (self._count(address) - FREE_FAILURES + 1) * PAUSE_SECONDS
        if wait > 0 and (address, _digest(secret)) not in self._good:
            raise Exhausted("too many wrong credentials", code="too_many_attempts", retry_after=math.ceil(wait))

    def failed(self, address: str) -> None:
        self._failures[address] = self._count(address) + 1, self._now()
        _trim(self._failures, address)
        log.warning("wrong credentials from %s", address)

    def succeeded(self, address: str, secret: str) -> None:
        key = address, _digest(secret)
        self._good[key] = None
        _trim(self._good, key)

    def _count(self, address: str) -> float:
        count, then = self._failures.get(address, (0.0, 0.0))
        return max(0.0, count - (self._now() - then) / PAUSE_SECONDS)


class SlowedCallers(Callers):
    """``callers``, for requests from ``address``. `principal` raises `Exhausted` too."""

    def __init__(self, callers: Callers, attempts: Attempts, address: str) -> None:
        self._callers = callers
        self._attempts = attempts
        self._address = address

    def knows(self, principal: Principal) -> bool:
        return self._callers.knows(principal)

    async def find(self, secret: str | None) -> Principal | None:
        if secret is None:
            return await self._callers.find(None)
        self._attempts.check(self._address, secret)
        principal = await self._callers.find(secret)
        if principal is None:
            self._attempts.failed(self._address)
        else:
            self._attempts.succeeded(self._address, secret)
        return principal


def address_of(scope: Scope) -> str:
    """Return the address whose attempts count together; for IPv6 the network (/64), which one client has to itself."""
    if dialler := dialler_of(scope):
        return ascii(f"{dialler.caller} over {dialler.service}")[:LABEL_LENGTH]
    client = scope.get("client")
    if not client or not client[0]:
        return "the Unix socket"
    host = str(client[0])
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return ascii(host)[:LABEL_LENGTH]
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _trim(table: OrderedDict[str, tuple[float, float]] | OrderedDict[tuple[str, bytes], None], newest: object) -> None:
    table.move_to_end(newest)  # type: ignore[arg-type]
    if len(table) > ADDRESSES:
        table.popitem(last=False)


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
