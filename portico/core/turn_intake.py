"""The intake of a session's turns: each is refused, handed to the turn that runs, or put into the queue."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from portico.core.agent import AgentDriver, Turn, require
from portico.core.encoding import encode_in_turns, is_large
from portico.core.errors import Conflict, Exhausted, NotFound, StoreFailed, Unavailable
from portico.core.events import ErrorEvent, EventBody, Query
from portico.core.journal import Journal
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.queue import TurnQueue
from portico.core.quota import TurnRate
from portico.core.requests import NewTurn, TurnState, TurnView
from portico.core.state import State, Wishes
from portico.core.turn import TurnRun, unused
from portico.core.wakeup import Broadcast, Wakeup


class Retired(Exception):
    """The session has gone dormant meanwhile: ask the engine for it again."""


class TurnIntake:
    """Anybody may call it, and waits at most for the store.

    The session's own task sets ``running`` to the turn under way, and takes the next one out of ``queue``. It holds
    ``accepting`` where nobody may be halfway in. ``wakeup`` wakes it; ``news`` tells of each turn that is over.
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
        self._ending = anyio.Lock(fast_acquire=True)  # held while the end of a turn is written that never began

    @property
    def busy(self) -> bool:
        """Whether there is a turn that is not complete."""
        return self.running is not None or bool(self.queue) or self._ending.locked()

    async def accept(
        self, principal: Principal, request: NewTurn, rate: TurnRate, *, draining: bool = False
    ) -> TurnView:
        """Take a query in: its `Query` event is stored, and it will be run whoever goes away.

        Raises `Conflict` (``busy``, ``session_closed``), `Exhausted` (``queue_full``, ``too_many_turns``),
        `Unavailable` (``draining``, but not for a turn that is known) or `Retired`.
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
                self._refuse(request)  # it took a while
            rate.take(principal.name)
            ahead = self.busy and request.if_busy not in ("interrupt", "steer")
            with anyio.CancelScope(shield=True):  # a caller that leaves must not tear the event from the queue
                first_seq = await self._enqueue(principal, turn_id, request, content)
        session_id = self._journal.record.session_id
        return TurnView(turn_id, session_id, "queued" if ahead else "running", first_seq, created=True)

    async def _enqueue(
        self, principal: Principal, turn_id: str, request: NewTurn, content: Sequence[bytes] | None
    ) -> int:
        query = Query(type="query", content=request.content, principal=principal.name)
        first_seq = await self._journal.write_query(turn_id, query, content)
        turn = Turn(turn_id, request.content, commands=request.commands)
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
        return TurnView(turn_id, self._journal.record.session_id, state, span.first_seq, created=False)

    def _refuse(self, request: NewTurn) -> None:
        if self._wishes.retired:
            raise Retired
        if self._wishes.close or self._journal.record.state in (State.CLOSED, State.FAILED):
            raise Conflict("the session is closed", code="session_closed")
        if request.if_busy in ("interrupt", "steer"):
            require(self._driver, request.if_busy)
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
            # The first turn in the queue is running for its caller, even where our task has not come to it.
            self._wishes.interrupt = self.queue.first

    async def withdraw(self, turn_id: str) -> None:
        """Take a turn out of the queue. Raises `Conflict` (``not_queued``) or `NotFound` (``turn_not_found``)."""
        async with self._ending_unbegun():
            removed = self.queue.remove(turn_id)
            if removed is not None:
                await self._end_queued(*removed, [unused("withdrawn")])
                return
        if await self._known_turn(turn_id):
            raise Conflict("the turn runs already, or is over", code="not_queued")
        raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")

    async def refuse_queued(self, code: str, detail: str) -> None:
        """End all turns that wait with an error. Raises `StoreFailed`; those that are not ended wait again."""
        async with self._ending_unbegun():
            while self.queue:
                error = ErrorEvent(type="error", error=detail, code=code)
                await self._end_queued(self.queue.take(), 0, [error, unused("error")])

    async def _end_queued(self, turn: Turn, place: int, bodies: Sequence[EventBody]) -> None:
        """End a turn that was just taken out of the queue, into which it goes back where that fails."""
        with anyio.CancelScope(shield=True):
            try:
                await self._journal.write(bodies, turn_id=turn.turn_id)
            except StoreFailed:
                self.queue.put_back(turn, place)
                self._wakeup.set()
                raise

    @asynccontextmanager
    async def _ending_unbegun(self) -> AsyncIterator[None]:
        """So that nobody else ends the same turn, or misses one that goes back into the queue."""
        try:
            async with self._ending:
                yield
        finally:
            self._news.tell()  # `busy` was true as long as it was held
