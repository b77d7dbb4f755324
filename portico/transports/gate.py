"""The ways in: credentials in a header, a ticket in the URL, or a network that vouches for the caller."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import unquote_plus

from starlette.types import Scope

from portico.core.errors import Conflict, MalformedRequest, NotFound, PorticoError, Unauthenticated
from portico.core.principal import Callers, Principal
from portico.core.sessions import Sessions
from portico.core.tickets import Ticket, Tickets
from portico.metrics.metrics import Metrics
from portico.transports.attempts import Attempts, SlowedCallers, address_of
from portico.transports.caller import Caller
from portico.transports.dialler import dialler_of
from portico.transports.parse import check_parameter_count

log = logging.getLogger("portico.auth")

HOW = "credentials are missing: send the header Authorization: Bearer TOKEN"


class CallerGate:
    """Finds the caller of a request."""

    def __init__(self, engine: Sessions, callers: Callers, tickets: Tickets, metrics: Metrics | None = None) -> None:
        self._engine = engine
        self._callers = callers
        self._tickets = tickets
        self._attempts = Attempts(metrics)
        self.tell = self._attempts.tell

    def callers(self, scope: Scope) -> Callers:
        """Return the `Callers` for credentials that come over this connection; they slow down guessing."""
        return SlowedCallers(self._callers, self._attempts, address_of(scope))

    async def enter(self, scope: Scope, text: str | None) -> Caller | None:
        """Return the caller of this request; None if it has no credentials at all. ``text`` is its ticket, if any.

        Raises `Unauthenticated`, `Exhausted` (``too_many_attempts``) or `Unavailable`.
        """
        headers = [value.decode("utf-8", "replace") for name, value in scope["headers"] if name == b"authorization"]
        if text is not None and not headers:
            return await self._by_ticket(scope, text)
        dialler = dialler_of(scope)
        if dialler is not None and dialler.principal is not None:
            return Caller(dialler.principal, None, None, _always)
        if (secret := bearer(headers)) is not None:
            return await self.by_secret(scope, secret)
        if (principal := await self._callers.find(None)) is not None:
            return Caller(principal, None, None, _always)
        if headers:
            raise Unauthenticated(HOW)
        return None

    async def by_secret(self, scope: Scope, secret: str) -> Caller:
        """Return the caller that presents ``secret``. Raises the same errors as `enter`."""
        principal = await self.callers(scope).principal(secret)

        async def still() -> bool:
            try:
                return await self._callers.find(secret) == principal
            except PorticoError:  # this can't be checked now, which is not the caller's fault
                return True

        return Caller(principal, None, secret, still)

    async def needs_nothing(self, caller: Caller) -> bool:
        """Tell whether ``caller`` would be let in without its credentials too. Then these may be made up."""
        if caller.ticket is not None:
            return False
        if caller.credential is None:
            return True
        try:
            return await self._callers.find(None) == caller.principal
        except PorticoError:  # nobody is let in without credentials now
            return False

    async def _by_ticket(self, scope: Scope, text: str) -> Caller:
        ticket = self._tickets.read(text)
        if ticket is None:
            raise await self._attempts.failed(address_of(scope), "the ticket is not valid")
        if self._tickets.expired(ticket):
            raise Unauthenticated("the ticket has expired (expires_at): ask for a new one")
        if (principal := await self._holder(ticket)) is None:
            raise Unauthenticated("the ticket is void: its session is gone, or the credentials it was made with")

        async def still() -> bool:
            try:
                return not self._tickets.expired(ticket) and await self._holder(ticket) is not None
            except PorticoError:
                return True
            except Exception:  # from a store, which may be a plugin's
                log.exception("can't check whether a ticket is still valid")
                return True

        return Caller(principal, ticket, text, still)

    async def _holder(self, ticket: Ticket) -> Principal | None:
        """Return the ticket's principal, bound to the ticket's session; None if the ticket is no longer valid."""
        try:
            identity = await self._engine.identity(ticket.principal, ticket.session_id)
        except (NotFound, Conflict):
            return None
        if not self._tickets.is_for(ticket, identity) or not self._callers.knows(ticket.principal):
            return None
        return replace(ticket.principal, bound_to=identity)


def take_ticket(scope: Scope) -> str | None:
    """Remove the ticket from the query string, so that no later part sees it, and return it; None if there is none.

    Raises `MalformedRequest` if there are two, or too many parameters. They are counted before they are parsed, because
    the caller is not known yet.
    """
    query: bytes = scope["query_string"]
    check_parameter_count(query)
    if b"ticket" not in query:
        return None
    kept: list[tuple[bytes, bytes]] = []
    found: list[tuple[bytes, bytes]] = []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        (found if unquote_plus(name.decode("latin-1")) == "ticket" else kept).append((pair, value))
    if len(found) > 1:
        raise MalformedRequest("a parameter is given twice in the query string")
    scope["query_string"] = b"&".join(pair for pair, _ in kept)
    return unquote_plus(found[0][1].decode("latin-1")) if found else None


async def _always() -> bool:
    return True


def bearer(values: Sequence[str]) -> str | None:
    """Return the token in the headers ``Authorization``; None unless there is exactly one, with a token."""
    if len(values) != 1:
        return None
    scheme, _, secret = values[0].partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None
