"""The caller of a request, and the way in which a transport identifies it."""

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
"""The time that an authenticator may take."""

log = logging.getLogger("portico.auth")


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. It owns the sessions that it creates; an ``admin`` sees and controls all sessions.

    ``via`` is the name of the authenticator that knows the caller, if one does. ``expires`` is the time (in seconds
    since 1970) when its credentials expire, if they do. ``source`` is the caller's address, if the transport knows it.
    ``by_ticket`` is true for a caller with a ticket, which permits less than the caller's own credentials.

    ``bound_to`` is the identity of a session, to which the caller is limited (`Engine.bind`).
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
    """An authenticator. It may also have ``knows(principal) -> bool``, to tell if a past caller is still allowed in."""

    name: str

    async def authenticate(self, secret: str | None) -> Principal | None:
        """Return the caller who presents ``secret`` (None: no secret), or None if this authenticator does not know."""


class Callers:
    """The authenticators, asked in order. If one fails, nobody is let in."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def find(self, secret: str | None) -> Principal | None:
        """Return the caller who presents ``secret`` (None: no secret), or None if no authenticator knows.

        Raises `Unavailable` (``authenticator_failed``).
        """
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
        """Tell whether a caller let in before is still allowed in, as far as its authenticator knows without a secret.

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
        return not principal.via  # its authenticator is no longer in use

    async def principal(self, secret: str | None) -> Principal:
        """Do as `find`. Raises `Unauthenticated` if no authenticator knows the caller."""
        if (principal := await self.find(secret)) is None:
            raise Unauthenticated("credentials are missing" if secret is None else "the credentials are not valid")
        return principal
