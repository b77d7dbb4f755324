"""The alarms of dormant sessions: they open a session when something that its agent has scheduled is due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable

import anyio

from portico.core.errors import PorticoError, StoreFailed
from portico.core.schedules import parsed
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord
from portico.core.wakeup import Wakeup

AGAIN_SECONDS = 30.0
"""The pause before a session that could not be opened is tried again."""

PAGE = 500

log = logging.getLogger("portico.alarms")


class Alarms:
    """The alarms of dormant sessions, each at the time of its next schedule. ``open_session`` opens one by its id.

    A live session looks at its own schedules.
    """

    def __init__(self, store: EventStore, open_session: Callable[[str], Awaitable[object]]) -> None:
        self._store = store
        self._open = open_session
        self._at: dict[str, float] = {}  # seconds since 1970
        self._changed = Wakeup()

    def note(self, record: SessionRecord) -> None:
        """Note a session that goes dormant."""
        times = [due for kept in record.schedules if (due := parsed(kept.get("next_at"))) is not None]
        if record.state is State.DORMANT and times:
            self._at[record.session_id] = min(times)
            self._changed.set()

    async def run(self) -> None:
        """Open sessions at their times, until cancelled. At first, look for them in the store."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look)
            while True:
                with anyio.move_on_after(min(self._at.values(), default=math.inf) - time.time()):
                    await self._changed.wait()
                for session_id in [each for each, due in self._at.items() if due <= time.time()]:
                    await self._ring(session_id)

    async def _look(self) -> None:
        cursor: str | None = None
        while True:
            try:
                page, cursor = await self._store.list(owner=None, state=State.DORMANT, limit=PAGE, cursor=cursor)
            except StoreFailed as failure:
                log.error("schedules of dormant sessions: %s", failure.detail)
                return
            for record in page:
                self.note(record)
            if cursor is None:
                return

    async def _ring(self, session_id: str) -> None:
        del self._at[session_id]
        try:
            await self._open(session_id)
        except PorticoError as failure:
            if failure.code in ("session_not_found", "session_closed"):
                return
            log.warning("session %s can't be opened at the time of its schedule: %s", session_id, failure.detail)
            self._at[session_id] = time.time() + AGAIN_SECONDS
