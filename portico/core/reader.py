"""A cursor over the events of one session. It is the only way in which anybody reads them."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel

from portico.core.events import Event, gap_event
from portico.core.feed import TAIL_BYTES, Feed

BATCH_BYTES = 256 * 1024


class Reader:
    """Reads what follows ``after``, of one turn or of the whole session; costs nothing while it is not asked."""

    def __init__(self, feed: Feed, *, after: int = 0, turn_id: str | None = None) -> None:
        self.after = after
        self._feed = feed
        self._turn_id = turn_id
        self._over = False
        self._stopped = False

    def stop(self) -> None:
        """Let whoever reads, or comes to read, get what is at hand, and then nothing more."""
        self._stopped = True
        self._feed.stir()

    async def read(self, max_bytes: int = BATCH_BYTES) -> Sequence[Event]:
        """The next events, at least one and about ``max_bytes`` in all; waits while there are none.

        Empty when no more will come: the turn is complete, the session closed, or the server is about to stop. A
        cancelled call loses nothing.
        """
        if self._feed.last_seq > self.after:
            await anyio.lowlevel.checkpoint()  # who reads what is there already must be cancellable too
        while True:
            while self._feed.last_seq <= self.after and not (self._feed.ended or self._stopped or self._over):
                await self._feed.change()
            if self._over:
                break
            events = self._feed.recent(self.after) if max_bytes >= TAIL_BYTES else ()
            if self._stopped:
                self._over = True
            else:
                events = events or await self._feed.read(self.after, max_bytes)
            if not events:
                if self._feed.last_seq <= self.after or self._over:
                    break
                first = self._feed.last_seq + 1  # all that was left is deleted
            else:
                first = events[0].seq
            if first > self.after + 1 and await self._must_know(first):
                after, self.after = self.after, first - 1
                self._over = self._turn_id is not None
                return [gap_event(self._feed.session_id, after, first)]
            self.after = events[-1].seq if events else first - 1
            if self._turn_id is not None:
                events = [event for event in events if event.turn_id == self._turn_id]
                self._over = self._over or (bool(events) and events[-1].type == "complete")
            if events:
                return events
        return ()

    async def _must_know(self, first: int) -> bool:
        """Whether to tell that everything before ``first`` was deleted: else a turn whose end was has none."""
        return self._turn_id is None or await self._feed.was_over(self._turn_id, first)
