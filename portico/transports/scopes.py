"""The scope of a ticket: requests about its session, to routes that accept tickets."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from portico.core.errors import NotAllowed, NotFound
from portico.core.tickets import Ticket
from portico.transports.admission import Admission
from portico.transports.parse import parse_event_id


def check_ticket(scope: Scope, ticket: Ticket, admission: Admission) -> None:
    """Raise `NotFound` if the request is about another session, and `NotAllowed` if it needs more than this ticket.

    Raises `MalformedRequest` for a ``Last-Event-ID`` that is none, where it matters.
    """
    session_id = scope.get("path_params", {}).get("session_id")
    if not session_id:
        raise NotAllowed("a ticket is for one session, and this request is not about it")
    if session_id != ticket.session_id:
        raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
    needed = admission.ticket
    if needed is None:
        raise NotAllowed("this can't be done with a ticket")
    if admission.resume and parse_event_id(Headers(scope=scope)) is not None:
        needed = admission.resume
    if needed == "query" and ticket.scope != "query":
        raise NotAllowed("this ticket is for reading only (scope)")
