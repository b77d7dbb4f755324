"""One session: a task that owns its agent and runs its turns one after another."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from portico.core.agent import AgentOptions, AgentSpec, Decision, OwnTurn, Turn, require
from portico.core.answers import judge
from portico.core.changes import SessionChanges
from portico.core.clock import rfc3339
from portico.core.encoding import encode_in_turns, is_large
from portico.core.errors import (
    AgentFailed,
    AgentUnavailable,
    Conflict,
    Exhausted,
    NotFound,
    PorticoError,
    StoreFailed,
    Unavailable,
)
from portico.core.events import Complete, Draft, ErrorEvent, EventBody, Notice, Query, SessionChange
from portico.core.feed import Feed
from portico.core.permissions import Permissions
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.queue import TurnQueue
from portico.core.rates import TurnRate
from portico.core.requests import NewTurn, SessionView, TurnState, TurnView
from portico.core.seat import Seat
from portico.core.slots import ProcessSlots
from portico.core.state import State, follow
from portico.core.store import SessionRecord
from portico.core.turn import TurnRun
from portico.core.usage import add_usage
from portico.core.view import session_view
from portico.core.wakeup import Wakeup

RETRY_SECONDS = 1.0
"""Between two tries to write the end of a turn into a store that fails."""

TAIL_SECONDS = 2.0
"""How long a session that rests keeps its last events in memory, for readers that are just about to read them."""

_STOPPED = "server_stopped", "the server stopped before this turn began"

log = logging.getLogger("portico.session")


class Retired(Exception):
    """The session has gone dormant meanwhile: ask the engine for it again."""


@dataclass(slots=True)
class _Running:
    """The turn under way; ``run`` once its agent is there, before that ``starting``."""

    turn_id: str
    starting: anyio.CancelScope
    interrupted: bool = False
    run: TurnRun | None = None
    steered: list[Turn] = field(default_factory=list)


class Session:
    """The live half of a session: its record, its queue of turns, and its agent if it has one.

    `run` is its task, and the only one that waits for the agent. Everything else may be called by anybody, and waits at
    most for the store.
    """

    def __init__(
        self,
        record: SessionRecord,
        *,
        feed: Feed,
        seat: Seat,
        slots: ProcessSlots,
        folder: Path,
        policy: Policy,
    ) -> None:
        self.record = replace(record, options=policy.still(record.options))
        self._untold_mode = self.record.options.permission_mode != record.options.permission_mode
        self._mode_asked = False  # somebody has set the permission mode since the last turn began
        self.life = feed.life
        self.feed = feed
        self.seat = seat
        self.finished = anyio.Event()
        self.permissions = Permissions(policy.permission_timeout)
        self.trouble: str | None = None
        self._slots = slots
        self._folder = folder
        self._policy = policy
        self._queue = TurnQueue()
        self._current: _Running | None = None
        self._own: OwnTurn | None = None
        self._lost: AgentFailed | AgentUnavailable | None = None
        self._interrupt_early: str | None = None
        self._agent_lost = False
        self._closing = False
        self._stopping = False
        self._retired = False
        self._unwanted_process = False
        self._idle_since = anyio.current_time()
        self._accepting = anyio.Lock(fast_acquire=True)
        self._ending = anyio.Lock(fast_acquire=True)  # held while the end of a turn is written that never began
        self._wakeup = Wakeup()
        self._turn_over = anyio.Event()

    # What anybody may call.

    @property
    def busy(self) -> bool:
        """Whether there is a turn that is not complete."""
        return self._current is not None or bool(self._queue) or self._ending.locked()

    @property
    def queued(self) -> int:
        """How many turns wait."""
        return len(self._queue)

    def view(self) -> SessionView:
        pending = self.permissions.pending
        return session_view(self.record, last_seq=self.feed.last_seq, queued=self.queued, pending=pending)

    async def quiet(self) -> None:
        """Wait until every turn is complete, or the session is over."""
        while self.busy and not self.finished.is_set():
            await self._turn_over.wait()

    async def accept(
        self, principal: Principal, request: NewTurn, rate: TurnRate, *, draining: bool = False
    ) -> TurnView:
        """Take a query in: its `Query` event is stored, and it will be run whoever goes away.

        Raises `Conflict` (``busy``, ``session_closed``), `Exhausted` (``queue_full``, ``too_many_turns``),
        `Unavailable` (``draining``, but not for a turn that is known) or `Retired`.
        """
        turn_id = request.turn_id or uuid.uuid4().hex
        async with self._accepting:
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
        return TurnView(turn_id, self.record.session_id, "queued" if ahead else "running", first_seq, created=True)

    async def _enqueue(
        self, principal: Principal, turn_id: str, request: NewTurn, content: Sequence[bytes] | None
    ) -> int:
        self.record = replace(self.record, turns=self.record.turns + 1, last_active_at=rfc3339())
        query = Query(type="query", content=request.content, principal=principal.name)
        try:
            (event,) = await self.feed.append([Draft(query, turn_id, content)], self.record)
        except Exception:
            self.record = replace(self.record, turns=self.record.turns - 1)
            raise
        turn = Turn(turn_id, request.content, commands=request.commands)
        current = self._current
        if request.if_busy == "steer" and current is not None and current.run is not None:
            current.steered.append(turn)
            current.run.steer(turn)
        elif request.if_busy in ("interrupt", "steer"):
            if request.if_busy == "interrupt":
                self._interrupt_current()
            place = 0 if current is not None else 1
            if request.if_busy == "steer":
                self._queue.overtake(turn, place)
            else:
                self._queue.push_in(turn, place)
        else:
            self._queue.add(turn)
        self._wakeup.set()
        return event.seq

    async def _known_turn(self, turn_id: str) -> TurnView | None:
        span = await self.life.turn(turn_id)
        if span is None:
            return None
        under_way = self._current.turn_id if self._current else self._queue.first
        waiting = turn_id != under_way and turn_id in self._queue
        state: TurnState = "complete" if span.last_seq else "queued" if waiting else "running"
        return TurnView(turn_id, self.record.session_id, state, span.first_seq, created=False)

    def _refuse(self, request: NewTurn) -> None:
        if self._retired:
            raise Retired
        if self._closing or self.record.state in (State.CLOSED, State.FAILED):
            raise Conflict("the session is closed", code="session_closed")
        if request.if_busy in ("interrupt", "steer"):
            require(self.seat.driver, request.if_busy)
        if request.if_busy == "reject" and self.busy:
            raise Conflict("a turn is running", code="busy")
        if (self._current is not None) + len(self._queue) > self._policy.max_queued_turns:
            limit = self._policy.max_queued_turns
            raise Exhausted(f"{limit} turns are waiting already", code="queue_full", retry_after=5)

    async def withdraw(self, turn_id: str) -> None:
        """Take a turn out of the queue. Raises `Conflict` (``not_queued``) or `NotFound` (``turn_not_found``)."""
        async with self._ending_unbegun():
            removed = self._queue.remove(turn_id)
            if removed is not None:
                await self._end_queued(*removed, [_complete("withdrawn")])
                return
        if await self._known_turn(turn_id):
            raise Conflict("the turn runs already, or is over", code="not_queued")
        raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")

    async def _end_queued(self, turn: Turn, place: int, bodies: Sequence[EventBody]) -> None:
        """End a turn that was just taken out of the queue, into which it goes back where that fails."""
        with anyio.CancelScope(shield=True):
            try:
                await self.write(bodies, turn_id=turn.turn_id)
            except StoreFailed:
                self._queue.put_back(turn, place)
                self._wakeup.set()
                raise

    @asynccontextmanager
    async def _ending_unbegun(self) -> AsyncIterator[None]:
        """So that nobody else ends the same turn, or misses one that goes back into the queue."""
        try:
            async with self._ending:
                yield
        finally:
            self._tell_turn_over()  # `busy` was true as long as it was held

    async def change(self, changes: SessionChanges) -> None:
        """Change the record, one call at a time; what concerns the agent holds from the next turn on."""
        before = self.record
        self.record = changes.apply(before)
        self._mode_asked = self._mode_asked or "permission_mode" in changes.given
        try:
            await self.feed.append(changes.drafts(before), self.record)
        except StoreFailed:
            self.record = replace(self.record, title=before.title, metadata=before.metadata, options=before.options)
            raise

    def interrupt(self) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``)."""
        if not self.busy:
            raise Conflict("no turn is running", code="not_running")
        self._interrupt_current()

    def _interrupt_current(self) -> None:
        if self._current is None:
            # The first turn in the queue is running for its caller, even where our task has not come to it.
            self._interrupt_early = self._queue.first
        else:
            self._current.interrupted = True
            if self._current.run is not None:
                self._current.run.interrupt()
            else:
                self._current.starting.cancel()

    async def answer(
        self, principal: Principal, request_id: str, decision: Decision, folders: Mapping[str, str] | None = None
    ) -> None:
        """Answer a permission request. ``folders`` are those that may be remembered, see `suggestions.open_folders`.

        Raises as `Permissions.resolve` and `judge`.
        """
        notices: list[Notice] = []
        if (request := self.permissions.request(request_id)) is not None:
            decision, notices = judge(decision, request, self._policy, self.record.options, folders or {})
        resolved = self.permissions.resolve(request_id, decision.behavior, "answered", principal.name)
        current = self._current
        run = current.run if current is not None else None
        if current is None or run is None:
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        with anyio.CancelScope(shield=True):
            state = None if self.permissions.pending else State.RUNNING
            try:
                await self.write([resolved, *notices], turn_id=current.turn_id, state=state)
            except StoreFailed:
                self.permissions.undo(request_id)
                raise
            run.decide(request_id, decision)

    async def closed(self) -> None:
        """Wait for the end of a session that `close` was called on. Raises `StoreFailed` where it cannot be written."""
        while not self.finished.is_set():
            await self._turn_over.wait()  # also told of each try to write that has failed
            if self._closing and self.trouble is not None:
                raise StoreFailed(self.trouble)

    def close(self) -> None:
        """Stop the running turn, refuse those that wait, stop the agent; `finished` is set when that is done."""
        self._closing = True
        self._interrupt_current()
        self._wakeup.set()

    def give_up_process(self) -> None:
        self._unwanted_process = True
        self._wakeup.set()

    async def stop_turns(self) -> None:
        """For a server that stops: interrupt what runs, refuse what waits; what cannot be written the next one ends."""
        self._stopping = True
        try:
            await self._refuse_queued(*_STOPPED)
        except StoreFailed as failure:
            log.warning("session %s: %s", self.record.session_id, failure.detail)
        self._interrupt_current()

    # The session's own task.

    async def run(self) -> None:
        """Until the session is closed, goes dormant, or the server cancels it."""
        try:
            if self._untold_mode:
                await self._persist(self.write, [self._mode_change("not_allowed")])
            await self._prepare_adopted()
            while not self._closing and not self._retired:
                if self._queue and self._stopping:
                    await self._persist(self._refuse_queued, *_STOPPED)
                elif self._queue:
                    turn = self._queue.take()
                    await self._do(turn.turn_id, turn)
                else:
                    await self._rest()
            if self._closing:
                await self._end()
        except Exception:
            log.exception("session %s failed", self.record.session_id)
            self.record = replace(self.record, state=State.FAILED)
            self.feed.end()
        finally:
            await self._empty_seat()
            self.finished.set()
            self._tell_turn_over()

    async def _end(self) -> None:
        await self._empty_seat()
        async with self._accepting:  # who was let in before the close is in the queue by now
            pass
        await self._persist(self._refuse_queued, "session_closed", "the session was closed before this turn began")
        await self._persist(self.write, [], state=State.CLOSED)
        self.feed.end()

    async def _persist(self, write: Callable[..., Awaitable[None]], *arguments: Any, **options: Any) -> None:
        """Write what must be written, however long the store takes to recover. Meanwhile `trouble` says why."""
        while True:
            try:
                await write(*arguments, **options)
                self.trouble = None
                return
            except StoreFailed as failure:
                if self.trouble is None:
                    log.error("session %s: %s", self.record.session_id, failure.detail)
                self.trouble = failure.detail
                self._tell_turn_over()
                await anyio.sleep(RETRY_SECONDS)

    async def _prepare_adopted(self) -> None:
        if self.seat.agent is None:
            return
        try:
            await self.seat.prepare(self._spec())
        except PorticoError as failure:
            log.warning("session %s: %s", self.record.session_id, failure.detail)
            await self._empty_seat()

    async def _refuse_queued(self, code: str, detail: str) -> None:
        async with self._ending_unbegun():
            while self._queue:
                error = ErrorEvent(type="error", error=detail, code=code)
                await self._end_queued(self._queue.take(), 0, [error, _complete("error")])

    def _tell_turn_over(self) -> None:
        over, self._turn_over = self._turn_over, anyio.Event()
        over.set()

    async def _rest(self) -> None:
        """Until somebody calls, the agent does something by itself, or the session has been idle for too long."""
        if self.record.state not in (State.IDLE, State.HIBERNATED, State.DORMANT):
            await self._persist(self.write, [], state=State.IDLE)  # what was to come next was withdrawn
        if self.seat.agent is not None and "resume" in self.seat.driver.capabilities:
            self._slots.rest(self)
        timeout = self._idle_since + self._policy.session_timeout
        if self.record.state is State.DORMANT:  # the query for which it was brought back was refused
            timeout = min(timeout, self._idle_since + TAIL_SECONDS)
        with anyio.CancelScope(deadline=min(timeout, anyio.current_time() + TAIL_SECONDS)) as idle:
            await self._next_call()
        if idle.cancelled_caught:
            self.feed.forget_tail()
            # Who called at that very moment is not waited for once more.
            if not (self._queue or self._closing or self._unwanted_process or self._own or self._lost):
                with anyio.CancelScope(deadline=timeout) as idle:
                    await self._next_call()
        own, self._own = self._own, None
        lost, self._lost = self._lost, None
        if lost is not None:
            await self._lose_agent(lost)
        if self._unwanted_process and own is None and not self._queue:
            await self._hibernate()
            return
        self._slots.stir(self)
        self._unwanted_process = False
        if own is not None:
            await self._follow(own)
        elif idle.cancelled_caught:
            await self._retire()

    async def _retire(self) -> None:
        await self._empty_seat()
        async with self._accepting:  # who is let in has its turn in the queue before we look
            if self._queue or self._closing:
                return
            try:
                await self.write([], state=State.DORMANT, reason="idle")
                self._retired = True
            except StoreFailed as failure:
                log.error("session %s: %s", self.record.session_id, failure.detail)
                self._idle_since = anyio.current_time()

    async def _next_call(self) -> None:
        agent = self.seat.agent
        if agent is None:
            await self._wakeup.wait()
            return
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                try:
                    self._own = await agent.watch()
                except (AgentFailed, AgentUnavailable) as failure:
                    self._lost = failure
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._wakeup.wait()
            tasks.cancel_scope.cancel()

    async def _hibernate(self) -> None:
        self._unwanted_process = False
        had_one = self.seat.agent is not None
        await self._empty_seat()
        if had_one:
            await self._persist(self.write, [], state=State.HIBERNATED)

    async def _follow(self, own: OwnTurn) -> None:
        turn_id = uuid.uuid4().hex
        self.record = replace(self.record, turns=self.record.turns + 1)
        query = Query(type="query", content=own.content, principal=None)
        await self._persist(self.write, [query], turn_id=turn_id)
        await self._do(turn_id, own)

    async def _do(self, turn_id: str, turn: Turn | OwnTurn) -> None:
        current = self._current = _Running(turn_id, anyio.CancelScope())
        began = time.monotonic()
        if turn_id == self._interrupt_early or self._closing:  # as a turn of the agent's own began
            self._interrupt_current()
        try:
            last, complete = await self._outcome(current, turn)
            self._queue.put_first(current.steered)  # those that it has not taken up come next
            current.run = None  # and who steers from now on is heard by no agent
            complete["duration_ms"] = round((time.monotonic() - began) * 1000)
            cost = self.record.cost_usd + complete["cost_usd"]
            self.record = replace(
                self.record,
                last_active_at=rfc3339(),
                usage=add_usage(self.record.usage, complete["usage"]),
                cost_usd=cost if math.isfinite(cost) else self.record.cost_usd,
            )
            await self._persist(self._write_end, [*last, complete], turn_id)
        finally:
            self._current = None
            self._idle_since = anyio.current_time()
            self._tell_turn_over()

    def note_mode(self, mode: str) -> tuple[Sequence[EventBody], AgentOptions | None]:
        """See `History.note_mode`. What was set in this turn holds from the next one on, whatever the agent does."""
        wanted = self.record.options.permission_mode
        if mode not in self._policy.permission_modes:
            detail = {"permission_mode": mode, "back_to": wanted}
            self.seat.note_mode(mode)
            return [Notice(type="notice", name="mode_not_allowed", detail=detail)], self.seat.options(wanted)
        self.seat.note_mode(mode)
        if self._mode_asked or mode == wanted:
            return [], None
        self.record = replace(self.record, options=self.record.options.with_changes(permission_mode=mode))
        return [self._mode_change("agent")], None

    def _mode_change(self, reason: str) -> SessionChange:
        mode = self.record.options.permission_mode
        return SessionChange(type="session", state=self.record.state, reason=reason, permission_mode=mode)

    async def end_steered(self, turn_id: str, failure: PorticoError | None = None) -> None:
        """The running turn has taken a message up, or cannot: that message's own turn is over."""
        current = self._current
        if current is None or turn_id not in [turn.turn_id for turn in current.steered]:
            return
        complete = _complete("steered")
        bodies: list[EventBody] = [complete]
        if failure is not None:
            complete["stop_reason"] = "error"
            bodies.insert(0, ErrorEvent(type="error", error=failure.detail, code=failure.code))
        await self.write(bodies, turn_id=turn_id)
        current.steered = [turn for turn in current.steered if turn.turn_id != turn_id]

    async def _outcome(self, current: _Running, turn: Turn | OwnTurn) -> tuple[list[EventBody], Complete]:
        """Do the turn, and say how it ended, whatever happens in it."""
        try:
            await self._ready_agent(current)
            if current.interrupted or self.seat.agent is None:
                return [], _complete("interrupted")
            run = current.run = TurnRun(
                self.seat.agent,
                turn,
                current.turn_id,
                history=self,
                permissions=self.permissions,
                timeout=self._policy.turn_timeout,
                can_interrupt="interrupt" in self.seat.driver.capabilities,
                can_set_mode="set_permission_mode" in self.seat.driver.capabilities,
            )
            await self.write([], state=State.RUNNING)
            last = await run.run()
            if run.failure is not None:
                self._agent_lost = True
                await self._empty_seat()
            elif run.astray:  # it may go on by itself, and must not in this mode
                await self._call_back()
            return last
        except PorticoError as problem:
            # Also of the store: what it does not take nobody may see, so the agent must not go on.
            error = ErrorEvent(type="error", error=problem.detail, code=problem.code)
        except Exception:
            log.exception("turn %s of session %s failed", current.turn_id, self.record.session_id)
            error = ErrorEvent(type="error", error="a fault of the server; its log says more", code="internal_error")
        await self._empty_seat()
        return [*self.permissions.withdraw_all("agent_exited"), error], _complete("error")

    async def _call_back(self) -> None:
        try:
            await self.seat.prepare(self._spec(), surely=True)
        except PorticoError as failure:
            log.warning("session %s: %s", self.record.session_id, failure.detail)
            await self._empty_seat()

    async def _write_end(self, bodies: Sequence[EventBody], turn_id: str) -> None:
        state = State.IDLE if not self._queue or self._closing else None
        await self.write(bodies, turn_id=turn_id, state=state)

    async def _ready_agent(self, current: _Running) -> None:
        surely, self._mode_asked = self._mode_asked, False
        if self.seat.agent is not None:
            await self.seat.prepare(self._spec(), surely=surely)
            return
        reason = None if self._slots.free else "no_process"
        await self.write([], state=State.STARTING, reason=reason)
        with current.starting:
            self._mode_asked = False
            await self.seat.start(self._spec())
        if self.record.turns > 1 and "resume" not in self.seat.driver.capabilities:
            notice = Notice(type="notice", name="context_lost", detail="The agent is new, and knows of no turn before.")
            await self.write([notice], turn_id=current.turn_id)
        elif self._agent_lost and not current.interrupted:
            notice = Notice(type="notice", name="agent_restarted", detail="The agent had exited; its context is kept.")
            await self.write([notice], turn_id=current.turn_id)
        self._agent_lost = False

    def _spec(self) -> AgentSpec:
        record = self.record
        return AgentSpec(record.agent_id, self._folder, Path(record.cwd), record.options, record.owner)

    async def _lose_agent(self, failure: PorticoError) -> None:
        self._agent_lost = True
        await self._empty_seat()
        await self._persist(self.write, [Notice(type="notice", name="agent_exited", detail=failure.detail)])

    async def _empty_seat(self) -> None:
        self._slots.leave(self)
        await self.seat.empty()
        self._slots.gone(self)

    async def write(
        self,
        bodies: Sequence[EventBody],
        *,
        turn_id: str | None = None,
        state: State | None = None,
        reason: str | None = None,
    ) -> None:
        """Add events and, if ``state`` is another than now, the change of state behind them."""
        drafts = [Draft(body, None if body["type"] == "session" else turn_id) for body in bodies]
        record, before = None, self.record.state
        if any(body["type"] in ("complete", "query", "session") for body in bodies):
            record = self.record
        if state is not None and state is not self.record.state:
            record = self.record = replace(self.record, state=follow(before, state))
            change = SessionChange(type="session", state=state)
            if reason is not None:
                change["reason"] = reason
            drafts.append(Draft(change))
        if not drafts:
            return
        try:
            events = await self.feed.append(drafts, record)
        except StoreFailed:
            self.record = replace(self.record, state=before)  # nobody has seen the change
            raise
        for body, event in zip(bodies, events, strict=False):
            if body["type"] == "permission_request":
                self.permissions.stored(body["request_id"], event)


def _complete(stop_reason: str) -> Complete:
    """The end of a turn that has used nothing."""
    return Complete(type="complete", stop_reason=stop_reason, usage={}, cost_usd=0.0, duration_ms=0)
