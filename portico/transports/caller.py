"""The caller of a request, and a check that its credentials are still valid while the answer goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

from portico.core.errors import NotAllowed
from portico.core.principal import Principal
from portico.core.tickets import Ticket


@dataclass(slots=True, eq=False)
class Caller:
    """The caller of a request, with its ``ticket`` if it used one.

    ``credential`` is equal for callers that used the same credentials. ``still`` tells whether the caller would be let
    in again; once the answer was no, ``over`` is set.
    """

    principal: Principal
    ticket: Ticket | None
    credential: str | None
    still: Callable[[], Awaitable[bool]]
    over: bool = False

    @property
    def reads_only(self) -> bool:
        return self.ticket is not None and self.ticket.scope != "query"

    def check_query(self) -> None:
        """Raise `NotAllowed` if the caller may only read."""
        if self.reads_only:
            raise NotAllowed("this ticket is for reading only (scope)")


def caller_of(scope: Scope) -> Caller | None:
    """Return the caller of this request; None for a public route, or before a WebSocket has sent its credentials."""
    return cast("Caller | None", scope.get("state", {}).get("caller"))
