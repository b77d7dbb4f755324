"""The engine's calls that read the history of a session."""

from __future__ import annotations

from collections.abc import Sequence

from portico.core.events import Event
from portico.core.principal import Principal
from portico.core.reader import Reader, open_reader, read_event, read_page, resume_reader
from portico.core.reception import Reception


class ReadingCalls(Reception):
    """The calls that read. See `Engine`."""

    async def pending(self, principal: Principal, session_id: str) -> Sequence[Event]:
        """Return the events of the permission requests that wait for an answer, oldest first."""
        life, _ = await self._allow(principal, session_id)
        session = self._lives.session(life)
        return session.permissions.events if session else ()

    async def reader(
        self, principal: Principal, session_id: str, *, after: int = 0, turn_id: str | None = None
    ) -> Reader:
        """Return a cursor that starts behind ``after``, over one turn or the whole session.

        Raises `NotFound` (also ``turn_not_found``) or `InvalidRequest` (``after_too_large``).
        """
        life, record = await self._allow(principal, session_id)
        return await open_reader(self._lives.feed(life, record), after, turn_id)

    async def resume(
        self, principal: Principal, session_id: str, last_seq: int, *, turn_id: str | None = None
    ) -> Reader | None:
        """Return a cursor that starts behind ``last_seq``, over the turn of that event (if it has none, ``turn_id``).

        Return None if nothing of the turn is left to send. Raises as `reader`.
        """
        life, record = await self._allow(principal, session_id)
        return await resume_reader(self._lives.feed(life, record), last_seq, turn_id)

    async def event(self, principal: Principal, session_id: str, seq: int) -> Event:
        """Return the event ``seq``.

        Raises `NotFound` (``event_not_found``, or ``event_deleted`` with ``min_seq``, the first one that still exists).
        """
        life, record = await self._allow(principal, session_id)
        return await read_event(self._lives.feed(life, record), seq)

    async def history(
        self, principal: Principal, session_id: str, *, after: int, limit: int, subagents: bool = True
    ) -> tuple[Sequence[Event], bool]:
        """Return at most ``limit`` events behind ``after``, and whether more follow; a gap event marks deleted ones.

        Without ``subagents``, leave out what these say and do.
        """
        life, record = await self._allow(principal, session_id)
        return await read_page(self._lives.feed(life, record), after, limit, subagents=subagents)
