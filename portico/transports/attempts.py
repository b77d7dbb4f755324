"""A brake on guessing: wrong credentials are answered slowly, and told of in the log. Good ones never wait."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address

import anyio
from starlette.types import Scope

from portico.core.errors import Exhausted, PorticoError, Unauthenticated
from portico.core.principal import Callers, Principal
from portico.metrics.metrics import Metrics
from portico.transports.dialler import dialler_of

FREE_FAILURES = 20
"""Failures in a row before an address has to wait."""
PAUSE_SECONDS = 5.0
"""The time after which one failure is forgotten."""
ADDRESSES = 4096
"""The most addresses that are remembered. The oldest are forgotten first."""
HELD_SECONDS = 1.0
"""The time for which a refusal is held back from an address that has to wait."""
HELD, HELD_EACH = 16, 4
"""The most refusals that are held back at once: of all addresses, and of one. Others are sent at once, so that nobody
takes up connections with them."""
WINDOW_SECONDS = 60.0
"""The time whose failures are told of in one line for each address."""
NAMED = 20
"""The most addresses that are named in the log in that time."""
LABEL_LENGTH = 128

log = logging.getLogger("portico.auth")


class Attempts:
    """The failed attempts from each address.

    Credentials are looked up first, whatever others have tried at the same address: behind a proxy all clients may
    share one.
    """

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        held_seconds: float = HELD_SECONDS,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._now = now
        self._held_seconds = held_seconds
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._named: Counter[str] = Counter()
        self._unnamed = 0
        self._window = -math.inf

    async def failed(self, address: str, detail: str) -> PorticoError:
        """Note wrong credentials from ``address``; return the error to refuse them with. ``detail`` is for people.

        From an address that has to wait it returns later, and `Exhausted` (``too_many_attempts``).
        """
        wait = self._count(address)
        self._metrics.wrong_credentials(slowed=wait is not None)
        self._note(address)
        if wait is None:
            return Unauthenticated(detail)
        if self._held.total() < HELD and self._held[address] < HELD_EACH:
            with self._holding(address):
                await anyio.sleep(self._held_seconds)
        detail = f"{detail}, and too many others from your address were not either"
        return Exhausted(detail, code="too_many_attempts", retry_after=math.ceil(wait))

    def _count(self, address: str) -> float | None:
        """Count a failure; return None, or the seconds to wait if there were too many before."""
        count, then = self._failures.get(address, (0.0, 0.0))
        now = self._now()
        count = max(0.0, count - (now - then) / PAUSE_SECONDS)
        wait = (count - FREE_FAILURES + 1) * PAUSE_SECONDS
        self._failures[address] = (count if wait > 0 else count + 1), now
        self._failures.move_to_end(address)
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        return wait if wait > 0 else None

    @contextmanager
    def _holding(self, address: str) -> Iterator[None]:
        self._held[address] += 1
        try:
            yield
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]

    def _note(self, address: str) -> None:
        """Name ``address`` in the log at once, if it is not named yet."""
        self.tell()
        if self._window == -math.inf:
            self._window = self._now()
        if address not in self._named and len(self._named) >= NAMED:
            self._unnamed += 1
            return
        self._named[address] += 1
        if self._named[address] == 1:
            log.warning("wrong credentials from %s", address)

    def tell(self) -> None:
        """Say in the log how many there were, if the window is over."""
        if self._now() - self._window < WINDOW_SECONDS:
            return
        for address, count in self._named.items():
            if count > 1:
                log.warning("wrong credentials from %s: %d in %d s", address, count, WINDOW_SECONDS)
        if self._unnamed:
            log.warning("wrong credentials from other addresses: %d in %d s", self._unnamed, WINDOW_SECONDS)
        self._named.clear()
        self._unnamed = 0
        self._window = -math.inf


class SlowedCallers(Callers):
    """``callers``, for requests from ``address``. `principal` is slow for wrong credentials, and raises `Exhausted`
    too."""

    def __init__(self, callers: Callers, attempts: Attempts, address: str) -> None:
        self._callers = callers
        self._attempts = attempts
        self._address = address

    def knows(self, principal: Principal) -> bool:
        return self._callers.knows(principal)

    async def find(self, secret: str | None) -> Principal | None:
        return await self._callers.find(secret)

    async def principal(self, secret: str | None) -> Principal:
        try:
            return await self._callers.principal(secret)
        except Unauthenticated as error:
            if secret is None:
                raise
            raise await self._attempts.failed(self._address, error.detail) from None


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
