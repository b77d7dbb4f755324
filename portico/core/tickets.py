"""Tickets: permissions to use one session for a while, for clients that can't send a header."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from portico.core.clock import rfc3339
from portico.core.errors import Unauthenticated
from portico.core.principal import Principal

KEY_BYTES = 32
MAX_LENGTH = 4096
"""The longest text of a ticket."""

Scope = Literal["read", "query"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket that ``principal`` made for the session ``session_id``; ``expires`` is in seconds since 1970.

    ``mark`` identifies the session: a later one with the same id has another mark.
    """

    session_id: str
    scope: Scope
    principal: Principal
    expires: float
    mark: str


class Tickets:
    """A maker and reader of tickets, with a key that nobody else has. It keeps no list of tickets."""

    def __init__(self, key: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now

    def make(self, principal: Principal, session_id: str, identity: str, scope: Scope, ttl: int) -> tuple[str, str]:
        """Make a ticket: return its text and the time when it expires (RFC 3339).

        ``identity`` is that of the session, ``ttl`` is in seconds. The ticket does not outlive the credentials of
        ``principal``. Raises `Unauthenticated` if those have expired already, as when the clock jumps.
        """
        left = ttl if principal.expires is None else min(ttl, principal.expires - self._now())
        if left <= 0:
            raise Unauthenticated("the credentials have expired: get new ones first")
        expires_at = rfc3339(seconds_from_now=left)
        expires = datetime.fromisoformat(expires_at).timestamp()
        claims = [session_id, scope, expires, principal.name, principal.admin, principal.via, self._mark(identity)]
        body = _text(json.dumps(claims, ensure_ascii=False, separators=(",", ":")).encode())
        return f"{body}.{_text(self._sign(body))}", expires_at

    def read(self, text: str) -> Ticket | None:
        """Return the ticket with this text, or None if it was not made with this key."""
        body, _, signature = text.partition(".")
        if len(text) > MAX_LENGTH or not text.isascii() or not hmac.compare_digest(_text(self._sign(body)), signature):
            return None
        session_id, scope, expires, name, admin, via, mark = json.loads(
            urlsafe_b64decode(body + "=" * (-len(body) % 4))
        )
        return Ticket(session_id, scope, Principal(name, admin, via, by_ticket=True), expires, mark)

    def expired(self, ticket: Ticket) -> bool:
        return self._now() >= ticket.expires

    def is_for(self, ticket: Ticket, identity: str) -> bool:
        """Tell whether ``identity`` is that of the session for which the ticket was made."""
        return hmac.compare_digest(ticket.mark, self._mark(identity))

    def _mark(self, identity: str) -> str:
        return _text(hmac.digest(self._key, b"session " + identity.encode(), "sha256")[:12])

    def _sign(self, body: str) -> bytes:
        return hmac.digest(self._key, b"ticket " + body.encode(), "sha256")


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
