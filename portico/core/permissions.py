"""The permission requests of one session."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from portico.core.clock import rfc3339
from portico.core.errors import Conflict, NotFound
from portico.core.events import Event, PermissionRequest, PermissionResolved, asks_a_person, kind_of
from portico.core.suggestions import named

REMEMBERED = 1000
"""The number of resolved requests whose answers are kept."""

Reason = Literal["answered", "timeout", "interrupted", "agent_exited", "not_allowed"]


@dataclass(slots=True)
class _Request:
    """A request of the turn ``turn``. ``event`` is set once it is in the history, ``resolved`` once it is resolved.

    It expires at the ``deadline``, in monotonic seconds, and no later than the clock says the ``time`` that callers
    were told, in seconds since 1970: the clock may jump, or go on while the machine sleeps.
    """

    body: PermissionRequest
    turn: int
    deadline: float | None
    time: float | None
    event: Event | None = None
    resolved: PermissionResolved | None = None


class Permissions:
    """The requests of one session. Each is resolved once: the first answer wins, and later callers learn whose it was.

    ``timeout`` is in seconds, ``question_timeout`` the same for requests that ask for more than permission; 0 means
    that requests wait for ever.
    """

    def __init__(self, timeout: float, question_timeout: float = 0.0) -> None:
        self._timeout = timeout
        self._question_timeout = question_timeout
        self._pending: dict[str, _Request] = {}
        self._settled: dict[str, _Request] = {}
        self._turn = 0

    @property
    def pending(self) -> list[PermissionRequest]:
        return [request.body for request in self._pending.values()]

    @property
    def questions(self) -> bool:
        """Tell whether one of the pending requests asks for more than permission."""
        return any(asks_a_person(request.body) for request in self._pending.values())

    @property
    def events(self) -> list[Event]:
        """The stored events of the pending requests."""
        return [request.event for request in self._pending.values() if request.event is not None]

    def add(self, body: PermissionRequest, now: float) -> PermissionRequest:
        """Add a request, and return it with its kind, the ids of its suggestions and the time when it expires.

        ``now`` is monotonic seconds.
        """
        body = cast(PermissionRequest, {**body, "kind": kind_of(body)})
        if "suggestions" in body:
            body["suggestions"] = named(body["suggestions"])
        if timeout := self._question_timeout if asks_a_person(body) else self._timeout:
            body["expires_at"] = rfc3339(seconds_from_now=timeout)
        deadline, told = (now + timeout, time.time() + timeout) if timeout else (None, None)
        self._pending[body["request_id"]] = _Request(body, self._turn, deadline, told)
        return body

    def request(self, request_id: str) -> PermissionRequest | None:
        """Return the pending request with this id, or None."""
        pending = self._pending.get(request_id)
        return pending.body if pending is not None else None

    def stored(self, request_id: str, event: Event) -> None:
        """Note that the request is in the history now, as ``event``."""
        if request := self._pending.get(request_id):
            request.event = event

    def resolve(
        self, request_id: str, behavior: Literal["allow", "deny"], reason: Reason, principal: str | None = None
    ) -> PermissionResolved:
        """Resolve a pending request.

        Raises `Conflict` (``already_resolved``, with the answer and its caller) or `NotFound` (``request_not_found``).
        """
        request = self._pending.pop(request_id, None)
        if request is None:
            if (settled := self._settled.get(request_id)) and (done := settled.resolved):
                extra = {key: done.get(key) for key in ("behavior", "principal", "reason")}
                raise Conflict("this request is already resolved", code="already_resolved", **extra)
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        body = PermissionResolved(type="permission_resolved", request_id=request_id, behavior=behavior, reason=reason)
        if principal is not None:
            body["principal"] = principal
        request.resolved = body
        self._settled[request_id] = request
        if len(self._settled) > REMEMBERED:
            del self._settled[next(iter(self._settled))]
        return body

    def undo(self, request_id: str) -> None:
        """Undo `resolve`, whose result could not be stored: the request waits again, unless its turn is over."""
        request = self._settled.pop(request_id)
        if request.turn == self._turn:
            self._pending[request_id] = request

    def withdraw_all(self, reason: Reason) -> list[PermissionResolved]:
        """Deny all pending requests at the end of a turn, and return the events of that."""
        self._turn += 1
        return [self.resolve(request_id, "deny", reason) for request_id in list(self._pending)]

    def expired(self, now: float) -> Iterable[str]:
        pending = self._pending.items()
        return [key for key, each in pending if each.deadline is not None and (each.deadline <= now or _late(each))]

    def check_time(self, request_id: str) -> None:
        """Raise `Conflict` (``already_resolved``) if the time that callers were told is over."""
        if (pending := self._pending.get(request_id)) is not None and _late(pending):
            extra = {"behavior": "deny", "principal": None, "reason": "timeout"}
            raise Conflict("the answer comes after `expires_at`", code="already_resolved", **extra)

    def next_deadline(self) -> float | None:
        deadlines = [request.deadline for request in self._pending.values() if request.deadline is not None]
        return min(deadlines, default=None)


def _late(request: _Request) -> bool:
    return request.time is not None and request.time <= time.time()
