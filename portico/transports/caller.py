"""Who a request is from, and whether that still holds while its answer goes on."""

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
    """``ticket`` is what it came with, if it is one. ``credential`` is the same for those who came with the same.

    ``still`` says whether it would be let in again; once it was not, ``over`` is set.
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
        """Raises `NotAllowed` where it may only read."""
        if self.reads_only:
            raise NotAllowed("this ticket is for reading only (scope)")


def caller_of(scope: Scope) -> Caller | None:
    """Who sends this request; None where nobody has asked, or it is still to be shown."""
    return cast("Caller | None", scope.get("state", {}).get("caller"))
