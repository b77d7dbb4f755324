"""A cursor over the events of one session, and the only way to read them."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel

from portico.core.errors import InvalidRequest, NotFound
from portico.core.events import Event, gap_event, of_subagent
from portico.core.feed import TAIL_BYTES, Feed

BATCH_BYTES = 256 * 1024


class Reader:
    """A cursor over the events behind ``after``, of one turn or the whole session. It costs nothing between reads."""

    def __init__(self, feed: Feed, *, after: int = 0, turn_id: str | None = None) -> None:
        self.after = after
        self.life = feed.life
        self._feed = feed
        self._turn_id = turn_id
        self._subagents = True
        self._over = False
        self._stopped = False

    def leave_out_subagents(self) -> None:
        """Return no events of subagents from now on (see `of_subagent`)."""
        self._subagents = False

    def stop(self) -> None:
        """Let current and later calls of `read` return the events that are in memory, and then no more."""
        self._stopped = True
        self._feed.stir()

    async def read(self, max_bytes: int = BATCH_BYTES) -> Sequence[Event]:
        """Return the next events, at least one and about ``max_bytes`` in all; wait while there are none.

        Return none when no more will come: the turn is complete, the session is closed, or the server is about to stop.
        A cancelled call loses nothing.
        """
        if self._feed.last_seq > self.after:
            await anyio.lowlevel.checkpoint()  # a read that need not wait must be cancellable too
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
                first = self._feed.last_seq + 1  # the rest of the history was deleted
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
            if not self._subagents:
                events = [event for event in events if not of_subagent(event)]
            if events:
                return events
        return ()

    async def _must_know(self, first: int) -> bool:
        """Tell whether to report that the events before ``first`` were deleted.

        The reader of a turn must know if the end of the turn is among them, or it would wait for that end.
        """
        return self._turn_id is None or await self._feed.was_over(self._turn_id, first)


async def open_reader(feed: Feed, after: int, turn_id: str | None) -> Reader:
    """Return a cursor that starts behind ``after``. Raises as `Engine.reader`."""
    _check_after(feed, after)
    if turn_id is not None:
        span = await feed.life.turn(turn_id)
        if span is None:
            raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")
        after = max(after, span.first_seq - 1)
    return Reader(feed, after=after, turn_id=turn_id)


async def resume_reader(feed: Feed, last_seq: int, turn_id: str | None) -> Reader | None:
    """Do as `Engine.resume`."""
    _check_after(feed, last_seq)
    event = await feed.life.event(last_seq)
    if event is not None and event.turn_id is not None:
        turn_id = event.turn_id
    span = await feed.life.turn(turn_id) if turn_id is not None else None
    if span is None or (span.last_seq is not None and span.last_seq <= last_seq):
        return None
    if span.last_seq is not None and await feed.life.event(span.last_seq) is None:
        return None  # it was deleted
    return await open_reader(feed, last_seq, span.turn_id)


async def read_event(feed: Feed, seq: int) -> Event:
    """Do as `Engine.event`."""
    if not 0 < seq <= feed.last_seq:
        raise NotFound(f"there is no event {seq}: the history ends at {feed.last_seq}", code="event_not_found")
    event = await feed.life.event(seq)
    if event is None:
        later = await feed.life.read(seq, 1)
        min_seq = later[0].seq if later else feed.last_seq + 1
        raise NotFound(f"the events before {min_seq} were deleted", code="event_deleted", min_seq=min_seq)
    return event


async def read_page(feed: Feed, after: int, limit: int, *, subagents: bool = True) -> tuple[Sequence[Event], bool]:
    """Do as `Engine.history`."""
    _check_after(feed, after)
    while True:
        events = list(await feed.life.read(after, limit))
        last = events[-1].seq if events else feed.last_seq
        first = events[0].seq if events else feed.last_seq + 1
        if not subagents:
            events = [event for event in events if not of_subagent(event)]
        if first > after + 1:
            events.insert(0, gap_event(feed.session_id, after, first))
        if events or last >= feed.last_seq:
            return events, bool(events) and last < feed.last_seq
        after = last


def _check_after(feed: Feed, after: int) -> None:
    if after > feed.last_seq:
        raise InvalidRequest(f"the history ends at {feed.last_seq}, before {after}", code="after_too_large")
