"""The intake of a session's turns: each is refused, handed to the running turn, or queued."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from portico.core.agent import AgentDriver, Turn, require
from portico.core.encoding import encode_in_turns, is_large
from portico.core.errors import Conflict, Exhausted, NotFound, StoreFailed, Unavailable
from portico.core.events import ErrorEvent, EventBody, Query, unused
from portico.core.journal import Journal
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.queue import TurnQueue
from portico.core.quota import TurnRate
from portico.core.requests import NewTurn, TurnState, TurnView
from portico.core.state import State, Wishes
from portico.core.turn import TurnRun
from portico.core.wakeup import Broadcast, Wakeup


class Retired(Exception):
    """The error that the session has gone dormant meanwhile; the engine has to open it again."""


class TurnIntake:
    """The intake of one session. Any task may call it, and waits at most for the store.

    The session's own task sets ``running`` to the current turn, and takes the next one out of ``queue``. It holds
    ``accepting`` when no caller may be halfway through `accept`. ``wakeup`` wakes that task; ``news`` reports each turn
    that is over.
    """

    def __init__(
        self, journal: Journal, wishes: Wishes, driver: AgentDriver, policy: Policy, *, wakeup: Wakeup, news: Broadcast
    ) -> None:
        self.queue = TurnQueue()
        self.running: TurnRun | None = None
        self.accepting = anyio.Lock(fast_acquire=True)
        self._journal = journal
        self._wishes = wishes
        self._driver = driver
        self._policy = policy
        self._wakeup = wakeup
        self._news = news
        self._ending = anyio.Lock(fast_acquire=True)  # held while turns that never began are ended

    @property
    def busy(self) -> bool:
        """Tell whether a turn is still running or queued."""
        return self.running is not None or bool(self.queue) or self._ending.locked()

    async def accept(
        self, principal: Principal, request: NewTurn, rate: TurnRate, *, draining: bool = False
    ) -> TurnView:
        """Accept a query: store its `Query` event, and run it even if the caller disconnects.

        Raises `Conflict` (``busy``, ``session_closed``), `Exhausted` (``queue_full``, ``too_many_turns``),
        `Unavailable` (``draining``, except for a turn that is already known) or `Retired`.
        """
        turn_id = request.turn_id or uuid.uuid4().hex
        async with self.accepting:
            if known := await self._known_turn(turn_id):
                return known
            if draining:
                raise Unavailable("the server is stopping", code="draining")
            self._refuse(request)
            content = None
            if is_large(request.content):
                content = await encode_in_turns(request.content)
                self._refuse(request)  # encoding took a while
            rate.take(principal.name)
            ahead = self.busy and request.if_busy not in ("interrupt", "steer")
            with anyio.CancelScope(shield=True):  # a caller that disconnects must not part the event from its turn
                first_seq = await self._enqueue(principal, turn_id, request, content)
        session_id = self._journal.record.session_id
        return TurnView(turn_id, session_id, "queued" if ahead else "running", first_seq, created=True)

    async def _enqueue(
        self, principal: Principal, turn_id: str, request: NewTurn, content: Sequence[bytes] | None
    ) -> int:
        query = Query(type="query", content=request.content, principal=principal.name)
        first_seq = await self._journal.write_query(turn_id, query, content)
        turn = Turn(turn_id, request.content, request.commands, request.output_schema)
        running = self.running
        if request.if_busy == "steer" and running is not None and running.live:
            running.steer(turn)
        elif request.if_busy in ("interrupt", "steer"):
            if request.if_busy == "interrupt":
                self.interrupt()
            place = 0 if running is not None else 1
            if request.if_busy == "steer":
                self.queue.overtake(turn, place)
            else:
                self.queue.push_in(turn, place)
        else:
            self.queue.add(turn)
        self._wakeup.set()
        return first_seq

    async def _known_turn(self, turn_id: str) -> TurnView | None:
        span = await self._journal.feed.life.turn(turn_id)
        if span is None:
            return None
        under_way = self.running.turn_id if self.running else self.queue.first
        waiting = turn_id != under_way and turn_id in self.queue
        state: TurnState = "complete" if span.last_seq else "queued" if waiting else "running"
        return TurnView(turn_id, self._journal.record.session_id, state, span.first_seq, False, span.last_seq)

    def _refuse(self, request: NewTurn) -> None:
        if self._wishes.retired:
            raise Retired
        if self._wishes.close or self._journal.record.state in (State.CLOSED, State.FAILED):
            raise Conflict("the session is closed", code="session_closed")
        for capability in request.needs:
            require(self._driver, capability)
        if request.if_busy == "reject" and self.busy:
            raise Conflict("a turn is running", code="busy")
        if (self.running is not None) + len(self.queue) > self._policy.max_queued_turns:
            limit = self._policy.max_queued_turns
            raise Exhausted(f"{limit} turns are waiting already", code="queue_full", retry_after=5)

    def interrupt(self) -> None:
        """Stop the running turn, or the one that is about to run."""
        if self.running is not None:
            self.running.interrupt()
        else:
            # For its caller the first turn in the queue is running, even if our task has not begun it yet.
            self._wishes.interrupt = self.queue.first

    async def withdraw(self, turn_id: str) -> None:
        """Remove a turn from the queue. Raises `Conflict` (``not_queued``) or `NotFound` (``turn_not_found``)."""
        async with self._ending_unbegun():
            removed = self.queue.remove(turn_id)
            if removed is not None:
                await self._end_queued(*removed, [unused("withdrawn")])
                return
        if await self._known_turn(turn_id):
            raise Conflict("the turn runs already, or is over", code="not_queued")
        raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")

    async def refuse_queued(self, code: str, detail: str) -> None:
        """End all queued turns with an error. Raises `StoreFailed`; the turns not ended by then stay in the queue."""
        async with self._ending_unbegun():
            while self.queue:
                error = ErrorEvent(type="error", error=detail, code=code)
                await self._end_queued(self.queue.take(), 0, [error, unused("error")])

    async def _end_queued(self, turn: Turn, place: int, bodies: Sequence[EventBody]) -> None:
        """End a turn that was just removed from the queue; if that fails, put it back."""
        with anyio.CancelScope(shield=True):
            try:
                await self._journal.write(bodies, turn_id=turn.turn_id)
            except StoreFailed:
                self.queue.put_back(turn, place)
                self._wakeup.set()
                raise

    @asynccontextmanager
    async def _ending_unbegun(self) -> AsyncIterator[None]:
        """Hold the lock so that nobody else ends the same turn, or misses one that goes back into the queue."""
        try:
            async with self._ending:
                yield
        finally:
            self._news.tell()  # `busy` was true while the lock was held
