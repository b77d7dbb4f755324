"""The ways in: credentials in a header, a ticket in the URL, or a network that vouches for who is calling."""

from __future__ import annotations

import logging
from dataclasses import replace
from urllib.parse import unquote_plus

from starlette.types import Scope

from portico.core.engine import Engine
from portico.core.errors import Conflict, MalformedRequest, NotFound, PorticoError, Unauthenticated
from portico.core.principal import Callers, Principal
from portico.core.tickets import Ticket, Tickets
from portico.transports.attempts import Attempts, SlowedCallers, address_of
from portico.transports.caller import Caller
from portico.transports.dialler import dialler_of
from portico.transports.parse import check_parameter_count

log = logging.getLogger("portico.auth")

HOW = "credentials are missing: send the header Authorization: Bearer TOKEN"


class CallerGate:
    """Finds out who is calling."""

    def __init__(self, engine: Engine, callers: Callers, tickets: Tickets) -> None:
        self._engine = engine
        self._callers = callers
        self._tickets = tickets
        self._attempts = Attempts()

    def callers(self, scope: Scope) -> Callers:
        """Whom to ask about what comes over this connection: who guesses there is slowed down."""
        return SlowedCallers(self._callers, self._attempts, address_of(scope))

    async def enter(self, scope: Scope, text: str | None) -> Caller | None:
        """Who sends this request, with the ticket ``text``, if it has one; None where it has no credentials at all.

        Raises `Unauthenticated`, `Exhausted` (``too_many_attempts``) or `Unavailable`.
        """
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if text is not None and not headers:
            return await self._by_ticket(scope, text)
        dialler = dialler_of(scope)
        if dialler is not None and dialler.principal is not None:
            return Caller(dialler.principal, None, None, _always)
        if (secret := _bearer(headers)) is not None:
            return await self.by_secret(scope, secret)
        if (principal := await self._callers.find(None)) is not None:
            return Caller(principal, None, None, _always)
        if headers:
            raise Unauthenticated(HOW)
        return None

    async def by_secret(self, scope: Scope, secret: str) -> Caller:
        """Who presents ``secret``. Raises as `enter`."""
        principal = await self.callers(scope).principal(secret)

        async def still() -> bool:
            try:
                return await self._callers.find(secret) == principal
            except PorticoError:  # it can't be told now, which is not the caller's fault
                return True

        return Caller(principal, None, secret, still)

    async def _by_ticket(self, scope: Scope, text: str) -> Caller:
        ticket = self._tickets.read(text)
        if ticket is None:
            # Only now: what has a signature of ours was not guessed, whatever others at this address have tried.
            address = address_of(scope)
            self._attempts.check(address, text)
            self._attempts.failed(address)
            raise Unauthenticated("the ticket is not valid")
        if self._tickets.expired(ticket):
            raise Unauthenticated("the ticket has expired")
        if (principal := await self._holder(ticket)) is None:
            raise Unauthenticated("the ticket is for what is no more: its session, or the credentials it was made with")

        async def still() -> bool:
            try:
                return not self._tickets.expired(ticket) and await self._holder(ticket) is not None
            except PorticoError:
                return True
            except Exception:  # a store's, which may be anybody's
                log.exception("whether a ticket still holds can't be told")
                return True

        return Caller(principal, ticket, text, still)

    async def _holder(self, ticket: Ticket) -> Principal | None:
        """The ticket's principal, bound to the ticket's session; None where the ticket does not hold any more."""
        try:
            identity = await self._engine.identity(ticket.principal, ticket.session_id)
        except (NotFound, Conflict):
            return None
        if not self._tickets.is_for(ticket, identity) or not self._callers.knows(ticket.principal):
            return None
        return replace(ticket.principal, bound_to=identity)


def take_ticket(scope: Scope) -> str | None:
    """The ticket in the query string, out of which it is taken: nothing behind here gets to see it.

    Raises `MalformedRequest` where there are two, or more parameters than any request has. These are counted before
    they are parsed: it is not known yet who is calling.
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
        raise MalformedRequest("a parameter stands twice in the query string")
    scope["query_string"] = b"&".join(pair for pair, _ in kept)
    return unquote_plus(found[0][1].decode("latin-1")) if found else None


async def _always() -> bool:
    return True


def _bearer(values: list[bytes]) -> str | None:
    if len(values) != 1:
        return None
    scheme, _, secret = values[0].decode("utf-8", "replace").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None
