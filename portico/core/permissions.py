"""The permission requests of one session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from portico.core.clock import rfc3339
from portico.core.errors import Conflict, NotFound
from portico.core.events import Event, PermissionRequest, PermissionResolved

REMEMBERED = 1000
"""Resolved requests of which it is still known who answered."""

Reason = Literal["answered", "timeout", "interrupted", "agent_exited"]


@dataclass(frozen=True, slots=True)
class _Pending:
    body: PermissionRequest
    deadline: float | None


class Permissions:
    """Each request is resolved once: the first answer wins, and later ones learn whose it was.

    ``timeout`` is in seconds; 0 means that requests wait for ever.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._pending: dict[str, _Pending] = {}
        self._events: dict[str, Event] = {}
        self._resolved: dict[str, PermissionResolved] = {}

    @property
    def events(self) -> list[Event]:
        """The stored events of what is pending."""
        return [self._events[request_id] for request_id in self._pending if request_id in self._events]

    def stored(self, event: Event, body: PermissionRequest) -> None:
        """``body`` is in the history now, as ``event``."""
        if body["request_id"] in self._pending:
            self._events[body["request_id"]] = event

    @property
    def pending(self) -> list[PermissionRequest]:
        return [request.body for request in self._pending.values()]

    def add(self, body: PermissionRequest, now: float) -> PermissionRequest:
        """Take a request in; returns it with the time at which it expires. ``now`` is monotonic seconds."""
        if self._timeout:
            body = cast(PermissionRequest, {**body, "expires_at": rfc3339(seconds_from_now=self._timeout)})
        self._pending[body["request_id"]] = _Pending(body, now + self._timeout if self._timeout else None)
        return body

    def resolve(
        self,
        request_id: str,
        behavior: Literal["allow", "deny"],
        reason: Reason,
        principal: str | None = None,
    ) -> PermissionResolved:
        """Settle a pending request.

        Raises `Conflict` (``already_resolved``, with who answered and how) or `NotFound` (``request_not_found``).
        """
        if request_id not in self._pending:
            if done := self._resolved.get(request_id):
                extra = {key: done.get(key) for key in ("behavior", "principal", "reason")}
                raise Conflict("this request is already resolved", code="already_resolved", **extra)
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        del self._pending[request_id]
        self._events.pop(request_id, None)
        body = PermissionResolved(type="permission_resolved", request_id=request_id, behavior=behavior, reason=reason)
        if principal is not None:
            body["principal"] = principal
        self._resolved[request_id] = body
        if len(self._resolved) > REMEMBERED:
            del self._resolved[next(iter(self._resolved))]
        return body

    def withdraw_all(self, reason: Reason) -> list[PermissionResolved]:
        return [self.resolve(request_id, "deny", reason) for request_id in list(self._pending)]

    def expired(self, now: float) -> Iterable[str]:
        return [
            key for key, request in self._pending.items() if request.deadline is not None and request.deadline <= now
        ]

    def next_deadline(self) -> float | None:
        deadlines = [request.deadline for request in self._pending.values() if request.deadline is not None]
        return min(deadlines, default=None)
