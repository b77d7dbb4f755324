"""The rule for who may use a route. A handler declares it; the guards look it up on the handler of each request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from portico.core import tickets

H = TypeVar("H", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Admission:
    """The rule of one handler. A handler without a rule gets the defaults: it needs credentials, and takes no ticket.

    ``public``: the route needs no credentials. ``any_host``: any Host header will do.
    ``first_frame``: a WebSocket's credentials may come in its first frame; the endpoint checks them.
    ``changes``: GET changes something too, so pages of other origins may not send it.
    ``ticket`` is the scope that a ticket must have; with ``Last-Event-ID`` the scope ``resume`` is enough.
    """

    public: bool = False
    any_host: bool = False
    first_frame: bool = False
    changes: bool = False
    ticket: tickets.Scope | None = None
    resume: tickets.Scope | None = None


DEFAULT = Admission()
PUBLIC = Admission(public=True)
READ = Admission(ticket="read")
QUERY = Admission(ticket="query")
CHANGING = Admission(changes=True)
CALL = Admission(ticket="query", changes=True)
"""GETs for which an agent may be started."""


def admitting(admission: Admission) -> Callable[[H], H]:
    """Return a decorator that sets the rule of a handler."""

    def mark(handler: H) -> H:
        handler.admission = admission  # type: ignore[attr-defined]
        return handler

    return mark


def admission_of(handler: object) -> Admission:
    """Return the rule of a handler."""
    found = getattr(handler, "admission", None)
    return found if isinstance(found, Admission) else DEFAULT
