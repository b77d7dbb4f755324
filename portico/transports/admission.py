"""Who may use a route. It is said where the route is made, and guards ask it of the route that handles the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from portico.core import tickets

H = TypeVar("H", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Admission:
    """The default is for a route that says nothing: it needs credentials, and takes no ticket.

    ``public``: it needs no credentials. ``any_host``: the Host header may be any.
    ``first_frame``: a WebSocket's credentials may come in its first frame, and the endpoint checks them.
    ``changes``: GET changes something too, so pages of other origins may not send it.
    ``ticket`` is the scope that a ticket must have; ``resume`` is the one that is enough with ``Last-Event-ID``.
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


def admitting(admission: Admission) -> Callable[[H], H]:
    """Say who may use a handler."""

    def mark(handler: H) -> H:
        handler.admission = admission  # type: ignore[attr-defined]
        return handler

    return mark


def admission_of(handler: object) -> Admission:
    """Who may use a handler."""
    found = getattr(handler, "admission", None)
    return found if isinstance(found, Admission) else DEFAULT
