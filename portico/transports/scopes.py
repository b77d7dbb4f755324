"""What a ticket is good for: a table of requests, all others being refused."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

from portico.core.errors import NotAllowed, NotFound
from portico.core.tickets import Ticket

# Where, behind the API's prefix, with `*` for a turn or a permission request -> by method what it takes.
_NEEDED: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("sessions",): {"GET": "read", "HEAD": "read"},
    ("sessions", "events"): {"GET": "read", "HEAD": "read"},
    ("sessions", "turns"): {"POST": "query"},
    ("sessions", "turns", "*"): {"DELETE": "query"},
    ("sessions", "interrupt"): {"POST": "query"},
    ("sessions", "permissions", "*"): {"POST": "query"},
    ("stream",): {"GET": "query", "POST": "query"},
    ("ws",): {"GET": "read"},
}
_RESUMED = ("stream",)
"""With an event to come back to, GET there runs nothing."""


def check_ticket(scope: Scope, ticket: Ticket, prefix: str) -> None:
    """Raises `NotFound` where the request is about another session, and `NotAllowed` where it is not for tickets."""
    session_id, place = _place(scope["path"], prefix)
    if not session_id:
        raise NotAllowed("a ticket is for one session, and this is about something else")
    if session_id != ticket.session_id:
        raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
    method = scope.get("method", "GET")
    needed = _NEEDED.get(place, {}).get(method)
    if needed is None:
        raise NotAllowed("this can't be done with a ticket")
    if place == _RESUMED and method == "GET" and any(name == b"last-event-id" for name, _ in scope["headers"]):
        needed = "read"
    if needed == "query" and ticket.scope != "query":
        raise NotAllowed("this ticket is for reading only (scope)")


def takes_tickets(path: str, method: str, prefix: str) -> bool:
    """Whether there are tickets for this, whatever session it is about."""
    session_id, place = _place(path, prefix)
    return bool(session_id) and method in _NEEDED.get(place, {})


def _place(path: str, prefix: str) -> tuple[str, tuple[str, ...]]:
    """Which session ``path`` is about, if it is about one, and what of it."""
    room, _, rest = path.removeprefix(f"{prefix}/").partition("/")
    session_id, *more = rest.split("/")
    return session_id if path.startswith(f"{prefix}/") else "", (room, *more[:1], *("*" for _ in more[1:]))
