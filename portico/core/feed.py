"""The history of one session: events are added at the end, and readers follow with cursors.

An event is in the store before any reader sees it. Appends that arrive while another is being stored are stored
together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio

from portico.core.clock import rfc3339
from portico.core.encoding import encode_event_in_turns
from portico.core.errors import SessionGone, StoreFailed
from portico.core.events import Draft, Event, first_of
from portico.core.life import Life
from portico.core.store import SessionRecord
from portico.core.stranger import strangers

TAIL_BYTES = 64 * 1024
"""The size of the events kept in memory for readers that keep up. Readers further behind read from the store."""

READ_EVENTS = 1000

log = logging.getLogger("portico.store")


class _Append:
    """One caller's events on their way into the store."""

    def __init__(self, drafts: Sequence[Draft], record: SessionRecord | None) -> None:
        self.drafts = drafts
        self.record = record
        self.events: list[Event] = []
        self.error: Exception | None = None
        self.done = False


class Feed:
    """The history of one session. ``last_seq`` is its end; once ``ended`` is set, this server adds nothing to it."""

    def __init__(
        self,
        life: Life,
        last_seq: int,
        *,
        now: Callable[[], str] = rfc3339,
        ended: bool = False,
        told: Callable[[Feed, int], None] = lambda feed, first_seq: None,
    ) -> None:
        """``told`` is called with the first new ``seq`` whenever there are new events, and must return at once."""
        self.life = life
        self.session_id = life.session_id
        self.last_seq = last_seq
        self.ended = ended
        self._now = now
        self._told = told
        self._appends: list[_Append] = []
        self._storing = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()
        self._tail: list[Event] = []
        self._tail_bytes = 0
        self._latest: tuple[tuple[int, int], Sequence[Event]] = (0, 0), ()

    async def append(self, drafts: Sequence[Draft], record: SessionRecord | None = None) -> Sequence[Event]:
        """Store ``drafts`` all at once, together with ``record`` if there is one, then show them to readers.

        A cancelled call has stored either everything or nothing, and its caller does not learn which. Raises
        `StoreFailed`, `SessionGone`, and the encoder's errors for a body that is not JSON; then nothing was stored.
        """
        mine = _Append(drafts, record)
        self._appends.append(mine)
        try:
            async with self._storing:
                if not mine.done:
                    with anyio.CancelScope(shield=True):
                        await self._store_all()
        finally:
            if not mine.done:  # cancelled before it was stored
                self._appends.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.events

    async def _store_all(self) -> None:
        appends, self._appends = self._appends, []
        events: list[Event] = []
        record: SessionRecord | None = None
        time = self._now()
        for append in appends:
            append.done = True
            seq = self.last_seq + len(events)
            try:
                append.events = [
                    await encode_event_in_turns(self.session_id, seq + n, time, draft)
                    for n, draft in enumerate(append.drafts, 1)
                ]
            except (TypeError, ValueError, RecursionError) as error:
                append.error = error
                continue
            events += append.events
            record = append.record or record
        last_seq = self.last_seq + len(events)
        if record is not None:
            record = replace(record, last_seq=last_seq)
        try:
            with strangers():
                await self.life.append(self.last_seq, events, record)
        except Exception as error:
            failure = error
            if not isinstance(error, StoreFailed | SessionGone):
                log.exception("the store failed")
                failure = StoreFailed("the store failed; the server's log says more")
            for append in appends:
                append.error = append.error or failure
            return
        self.last_seq = last_seq
        self._keep(events)
        self._wake()
        if events:
            self._told(self, events[0].seq)

    def _keep(self, events: list[Event]) -> None:
        self._tail += events
        self._tail_bytes += sum(len(event.data) for event in events)
        drop = 0
        while self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= len(self._tail[drop].data)
            drop += 1
        if drop:
            del self._tail[:drop]

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def end(self) -> None:
        """Let every reader finish once it has read the events that exist."""
        self.ended = True
        self._wake()

    def forget_tail(self) -> None:
        """Free the memory of the recent events, when nothing will be added for a while."""
        self._tail, self._tail_bytes = [], 0
        self._latest = (0, 0), ()

    async def change(self) -> None:
        """Wait until there are new events, or `end` or `stir` is called."""
        await self._changed.wait()

    def stir(self) -> None:
        """Wake all waiting readers, so that they look again."""
        self._wake()

    def recent(self, after: int) -> Sequence[Event]:
        """Return all events behind ``after`` if they are in memory (at most `TAIL_BYTES`); otherwise none."""
        if after >= self.last_seq or not self._tail or (start := after + 1 - self._tail[0].seq) < 0:
            return ()
        if self._latest[0] != (after, self.last_seq):  # readers that keep up ask for the same, and share the result
            self._latest = (after, self.last_seq), tuple(self._tail[start:])
        return self._latest[1]

    async def read(self, after: int, max_bytes: int) -> Sequence[Event]:
        """Return the stored events behind ``after``: about ``max_bytes``, and at least one if there is any.

        A purged session has none: to a reader it looks like a session whose events were deleted.
        """
        if after >= self.last_seq:
            return ()
        try:
            events = self.recent(after) or await self.life.read(after, READ_EVENTS, max_bytes)
        except SessionGone:
            return ()
        return first_of(events, max_bytes)

    async def was_over(self, turn_id: str, seq: int) -> bool:
        """Tell whether the turn ended before ``seq``. A turn that is unknown, or of a purged session, did."""
        try:
            span = await self.life.turn(turn_id)
        except SessionGone:
            return True
        return span is None or (span.last_seq is not None and span.last_seq < seq)
