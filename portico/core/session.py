"""One session: a task that owns its agent and runs its turns one after another."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio

from portico.core.agent import Agent, AgentDriver, AgentSpec, Decision, OwnTurn, Turn
from portico.core.clock import rfc3339
from portico.core.errors import AgentFailed, AgentUnavailable, Conflict, Exhausted, PorticoError
from portico.core.events import Complete, Draft, ErrorEvent, EventBody, Notice, Query, SessionChange
from portico.core.feed import Feed
from portico.core.permissions import Permissions
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.requests import NewTurn, SessionView, TurnState, TurnView
from portico.core.state import State, follow
from portico.core.store import EventStore, SessionRecord
from portico.core.turn import TurnRun
from portico.core.usage import add_usage
from portico.core.view import session_view
from portico.core.wakeup import Wakeup

log = logging.getLogger("portico.session")


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
        store: EventStore,
        driver: AgentDriver,
        folder: Path,
        policy: Policy,
    ) -> None:
        self.record = record
        self.feed = feed
        self.finished = anyio.Event()
        self.permissions = Permissions(policy.permission_timeout)
        self._store = store
        self._driver = driver
        self._folder = folder
        self._policy = policy
        self._queue: deque[Turn] = deque()
        self._busy = False
        self._run: TurnRun | None = None
        self._current: str | None = None
        self._interrupted = False
        self._agent: Agent | None = None
        self._agent_lost = False
        self._closing = False
        self._accepting = anyio.Lock(fast_acquire=True)
        self._wakeup = Wakeup()
        self._turn_over = anyio.Event()

    # What anybody may call.

    @property
    def busy(self) -> bool:
        """Whether there is a turn that is not complete."""
        return self._busy or bool(self._queue)

    def view(self) -> SessionView:
        pending = [dict(body) for body in self.permissions.pending]
        return session_view(self.record, last_seq=self.feed.last_seq, queued=len(self._queue), pending=pending)

    async def quiet(self) -> None:
        """Wait until every turn is complete, or the session is over."""
        while self.busy and not self.finished.is_set():
            await self._turn_over.wait()

    async def accept(self, principal: Principal, request: NewTurn) -> TurnView:
        """Take a query in: its `Query` event is stored, and it will be run whoever goes away.

        Raises `Conflict` (``busy``, ``session_closed``) or `Exhausted` (``queue_full``).
        """
        turn_id = request.turn_id or uuid.uuid4().hex
        async with self._accepting:
            if known := await self._known_turn(turn_id):
                return known
            self._refuse(request)
            ahead = self.busy
            with anyio.CancelScope(shield=True):  # a caller that leaves must not tear the event from the queue
                first_seq = await self._enqueue(principal, Turn(turn_id, request.content))
        return TurnView(turn_id, self.record.session_id, "queued" if ahead else "running", first_seq, created=True)

    async def _enqueue(self, principal: Principal, turn: Turn) -> int:
        self.record = replace(self.record, turns=self.record.turns + 1, last_active_at=rfc3339())
        query = Query(type="query", content=turn.content, principal=principal.name)
        (event,) = await self.feed.append([Draft(query, turn.turn_id)], self.record)
        self._queue.append(turn)
        self._wakeup.set()
        return event.seq

    async def _known_turn(self, turn_id: str) -> TurnView | None:
        span = await self._store.turn(self.record.session_id, turn_id)
        if span is None:
            return None
        waiting = any(turn.turn_id == turn_id for turn in self._queue)
        state: TurnState = "complete" if span.last_seq else "queued" if waiting and self._current else "running"
        return TurnView(turn_id, self.record.session_id, state, span.first_seq, created=False)

    def _refuse(self, request: NewTurn) -> None:
        if self._closing or self.record.state in (State.CLOSED, State.FAILED):
            raise Conflict("the session is closed", code="session_closed")
        if request.if_busy == "reject" and self.busy:
            raise Conflict("a turn is running", code="busy")
        if self._busy + len(self._queue) > self._policy.max_queued_turns:
            limit = self._policy.max_queued_turns
            raise Exhausted(f"{limit} turns are waiting already", code="queue_full", retry_after=5)

    def interrupt(self) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``)."""
        if not self._busy:
            raise Conflict("no turn is running", code="not_running")
        self._interrupted = True
        if self._run is not None:
            self._run.interrupt()

    async def answer(self, principal: Principal, request_id: str, decision: Decision) -> None:
        """Answer a permission request. Raises as `Permissions.resolve`."""
        resolved = self.permissions.resolve(request_id, decision.behavior, "answered", principal.name)
        run = self._run
        with anyio.CancelScope(shield=True):
            state = None if self.permissions.pending else State.RUNNING
            await self.write([resolved], turn_id=self._current, state=state)
        if run is not None:
            run.decide(request_id, decision)

    def close(self) -> None:
        """Stop the running turn, refuse those that wait, stop the agent; `finished` is set when that is done."""
        self._closing = True
        if self._busy:
            self.interrupt()
        self._wakeup.set()

    # The session's own task.

    async def run(self) -> None:
        """Until the session is closed, or the server cancels it."""
        try:
            while not self._closing:
                if self._queue:
                    turn = self._queue.popleft()
                    await self._do(turn.turn_id, turn)
                else:
                    await self._wait()
            await self._refuse_queued("session_closed", "the session was closed before this turn began")
            await self._drop_agent()
            await self.write([], state=State.CLOSED)
        except Exception:
            log.exception("session %s failed", self.record.session_id)
            self.record = replace(self.record, state=State.FAILED)
        finally:
            with anyio.CancelScope(shield=True):
                await self._drop_agent()
            self.feed.end()
            self.finished.set()
            self._tell_turn_over()

    async def stop_turns(self) -> None:
        """For a server that stops: interrupt what runs, refuse what waits."""
        await self._refuse_queued("server_stopped", "the server stopped before this turn began")
        if self._busy:
            self.interrupt()

    async def _refuse_queued(self, code: str, detail: str) -> None:
        while self._queue:
            turn = self._queue.popleft()
            error = ErrorEvent(type="error", error=detail, code=code)
            complete = Complete(type="complete", stop_reason="error", usage={}, cost_usd=0.0, duration_ms=0)
            await self.write([error, complete], turn_id=turn.turn_id)
            self._tell_turn_over()

    def _tell_turn_over(self) -> None:
        over, self._turn_over = self._turn_over, anyio.Event()
        over.set()

    async def _wait(self) -> None:
        """Until somebody calls, or the agent does something by itself."""
        self.feed.forget_tail()
        agent, own = self._agent, None
        if agent is None:
            await self._wakeup.wait()
            return

        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal own
                try:
                    own = await agent.watch()
                except (AgentFailed, AgentUnavailable) as failure:
                    await self._lose_agent(failure)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._wakeup.wait()
            tasks.cancel_scope.cancel()
        if own is not None:
            await self._follow(own)

    async def _follow(self, own: OwnTurn) -> None:
        turn_id = uuid.uuid4().hex
        self.record = replace(self.record, turns=self.record.turns + 1)
        await self.write([Query(type="query", content=own.content, principal=None)], turn_id=turn_id)
        await self._do(turn_id, own)

    async def _do(self, turn_id: str, turn: Turn | OwnTurn) -> None:
        self._current, self._busy, self._interrupted = turn_id, True, False
        began = time.monotonic()
        try:
            last, complete = await self._attempt(turn, turn_id)
            complete["duration_ms"] = round((time.monotonic() - began) * 1000)
            self.record = replace(
                self.record,
                last_active_at=rfc3339(),
                usage=add_usage(self.record.usage, complete["usage"]),
                cost_usd=self.record.cost_usd + complete["cost_usd"],
            )
            state = State.IDLE if not self._queue or self._closing else None
            await self.write([*last, complete], turn_id=turn_id, state=state)
        finally:
            self._busy, self._run, self._current = False, None, None
            self._tell_turn_over()

    async def _attempt(self, turn: Turn | OwnTurn, turn_id: str) -> tuple[list[EventBody], Complete]:
        complete = Complete(type="complete", stop_reason="interrupted", usage={}, cost_usd=0.0)
        try:
            agent = self._agent or await self._start_agent()
        except AgentUnavailable as problem:
            complete["stop_reason"] = "error"
            return [ErrorEvent(type="error", error=problem.detail, code=problem.code)], complete
        if self._interrupted:
            return [], complete
        run = self._run = TurnRun(
            agent,
            turn,
            turn_id,
            history=self,
            permissions=self.permissions,
            timeout=self._policy.turn_timeout,
        )
        await self.write([], state=State.RUNNING)
        last = await run.run()
        if run.failure is not None:
            self._agent_lost = True
            await self._drop_agent()
        return last

    async def _start_agent(self) -> Agent:
        await self.write([], state=State.STARTING)
        record = self.record
        spec = AgentSpec(record.agent_id, self._folder, Path(record.cwd), record.options)
        agent = self._agent = await self._driver.start(spec)
        if self._agent_lost:
            self._agent_lost = False
            notice = Notice(type="notice", name="agent_restarted", detail="The agent had exited; its context is kept.")
            await self.write([notice], turn_id=self._current)
        return agent

    async def _lose_agent(self, failure: PorticoError) -> None:
        with anyio.CancelScope(shield=True):
            self._agent_lost = True
            await self._drop_agent()
            await self.write([Notice(type="notice", name="agent_exited", detail=failure.detail)])

    async def _drop_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close()

    async def write(
        self, bodies: Sequence[EventBody], *, turn_id: str | None = None, state: State | None = None
    ) -> None:
        """Add events and, if ``state`` is another than now, the change of state behind them."""
        drafts = [Draft(body, turn_id) for body in bodies]
        record = None
        if bodies and bodies[-1]["type"] in ("complete", "query"):
            record = self.record
        if state is not None and state is not self.record.state:
            record = self.record = replace(self.record, state=follow(self.record.state, state))
            drafts.append(Draft(SessionChange(type="session", state=state)))
        if drafts:
            await self.feed.append(drafts, record)
