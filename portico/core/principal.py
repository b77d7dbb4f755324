"""Who is calling, and how a transport finds out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio

from portico.core.errors import PorticoError, Unauthenticated, Unavailable
from portico.core.source import Source
from portico.core.stranger import strangers

ANSWER_SECONDS = 10.0
"""How long an authenticator may take."""

log = logging.getLogger("portico.auth")


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. Owns the sessions that it creates; an ``admin`` sees and steers all.

    ``via`` is the authenticator that knows it, where one does; ``expires`` is when its credentials do (in seconds since
    1970), if they ever do; ``source`` is where it is, where its transport tells. ``by_ticket``: it has come with a
    ticket, and may not do all that it may do with its own credentials.

    ``bound_to`` is the identity of a session. A caller that has one may use that session only (`Engine.bind`).
    """

    name: str
    admin: bool = False
    via: str = field(default="", compare=False)
    expires: float | None = field(default=None, compare=False)
    source: Source | None = field(default=None, compare=False)
    bound_to: str | None = field(default=None, compare=False, repr=False)
    by_ticket: bool = field(default=False, compare=False)

    def may_see(self, owner: str) -> bool:
        return self.admin or self.name == owner


class Authenticator(Protocol):
    """It may also have ``knows(principal) -> bool``: whether it would still let this one in, who has come before."""

    name: str

    async def authenticate(self, secret: str | None) -> Principal | None:
        """Who presents ``secret`` (None: nothing was presented); None where this authenticator does not know."""


class Callers:
    """Asks the authenticators, in order. One that fails lets nobody in."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def find(self, secret: str | None) -> Principal | None:
        """Who presents ``secret`` (None: nothing was presented). Raises `Unavailable` (``authenticator_failed``)."""
        for authenticator in self._authenticators:
            try:
                with anyio.fail_after(ANSWER_SECONDS), strangers():
                    principal = await authenticator.authenticate(secret)
                if not isinstance(principal, Principal | None):
                    raise TypeError(f"{type(principal).__name__} is no Principal")
            except PorticoError:
                raise
            except Exception as error:
                log.exception("the authenticator %s failed", getattr(authenticator, "name", authenticator))
                raise Unavailable("who you are cannot be found out now", code="authenticator_failed") from error
            if principal is not None:
                return replace(principal, via=getattr(authenticator, "name", ""))
        return None

    def knows(self, principal: Principal) -> bool:
        """Whether who was let in before would be once more, as far as its authenticator can tell without a secret.

        Raises `Unavailable` (``authenticator_failed``).
        """
        for authenticator in self._authenticators:
            if authenticator.name == principal.via:
                knows: Callable[[Principal], bool] = getattr(authenticator, "knows", lambda principal: True)
                try:
                    with strangers():
                        return knows(principal)
                except Exception as error:
                    log.exception("the authenticator %s failed", authenticator.name)
                    raise Unavailable("who you are cannot be found out now", code="authenticator_failed") from error
        return not principal.via  # an authenticator that is used no more

    async def principal(self, secret: str | None) -> Principal:
        """As `find`. Raises `Unauthenticated` where nobody knows the caller."""
        if (principal := await self.find(secret)) is None:
            raise Unauthenticated("credentials are missing" if secret is None else "the credentials are not valid")
        return principal
