"""The life of a session, from its creation until it is purged. After that, another session may get its id."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from portico.core.errors import SessionGone
from portico.core.events import Event
from portico.core.store import READ_BYTES, EventStore, SessionRecord, TurnSpan


class Life:
    """The binding of a request, a feed or a stream to one session, however often it waits.

    The store knows sessions by their ids alone. So every read or write of a session goes through its life. From `purge`
    on, each call raises `SessionGone`. So does each call that is in progress at that moment, whatever it has found.
    """

    def __init__(self, session_id: str, store: EventStore) -> None:
        self.session_id = session_id
        self.over = False
        self.changing = anyio.Lock(fast_acquire=True)  # each change of a record builds on the one before
        self._store = store
        self._writing = anyio.Lock(fast_acquire=True)
        self._writes = 0

    def check(self) -> None:
        """Raise `SessionGone` once the session is purged. Until the next wait, actions affect this very session."""
        if self.over:
            raise SessionGone(self.session_id)

    async def record(self) -> SessionRecord | None:
        """Return the record as it is stored now, or None if there is no session with this id."""
        while True:
            self.check()
            writes = self._writes
            record = await self._store.get(self.session_id)
            self.check()
            if writes == self._writes:  # else it may be older than a write in the meantime
                return record

    async def turn(self, turn_id: str) -> TurnSpan | None:
        self.check()
        span = await self._store.turn(self.session_id, turn_id)
        self.check()
        return span

    async def event(self, seq: int) -> Event | None:
        self.check()
        event = await self._store.event(self.session_id, seq)
        self.check()
        return event

    async def read(self, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        self.check()
        events = await self._store.read(self.session_id, after, limit, max_bytes)
        self.check()
        return events

    async def append(self, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None) -> None:
        """Do as `EventStore.append`. Once it returns, this session has stored the events, even if a purge follows."""
        async with self._writing:
            self.check()
            try:
                await self._store.append(self.session_id, expected_seq, events, record)
            finally:
                self._writes += 1

    async def purge(self) -> None:
        """Delete the session. No other session may get its id before this returns. Raises `StoreFailed`."""
        self.over = True
        async with self._writing:  # a pending write must not reach the next session with this id
            await self._store.delete(self.session_id)
