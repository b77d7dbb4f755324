"""The engine: all sessions, whoever they belong to and however they are reached."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.agent import AgentDriver, AgentOptions, Decision
from portico.core.clock import rfc3339
from portico.core.errors import Conflict, Exhausted, InvalidRequest, NotAllowed, NotFound, Unavailable
from portico.core.events import Draft, Event, SessionChange
from portico.core.feed import Feed
from portico.core.policy import Policy
from portico.core.principal import Principal
from portico.core.reader import Reader
from portico.core.requests import NewSession, NewTurn, SessionView, TurnView
from portico.core.session import Session
from portico.core.state import OPEN, State
from portico.core.store import EventStore, SessionRecord
from portico.core.view import session_view
from portico.core.workspace import make_private, remove, resolve_cwd

log = logging.getLogger("portico.engine")

STOP_SECONDS = 15.0
"""How long interrupted turns, or the agent of a closed session, may take to end."""


class Engine:
    """Every method takes the caller first, and treats what is somebody else's as unknown.

    All raise errors of `portico.core.errors` only.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        drivers: Mapping[str, AgentDriver],
        default_driver: str,
        default_model: str | None,
        policy: Policy,
    ) -> None:
        self.draining = False
        self._store = store
        self._drivers = drivers
        self._default_driver = default_driver
        self._default_model = default_model
        self._policy = policy
        self._sessions: dict[str, Session] = {}
        self._creating: set[str] = set()
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own store, drivers and sessions until cancelled; then stop every agent, and only then the rest."""
        async with anyio.create_task_group() as tasks:
            stopping = anyio.Event()
            await tasks.start(_tell_cancellation, stopping)
            with anyio.CancelScope(shield=True):  # or everything would be cancelled at once
                async with AsyncExitStack() as stack:
                    await self._store.open()
                    stack.push_async_callback(self._store.close)
                    for driver in self._drivers.values():
                        await driver.open()
                        stack.push_async_callback(driver.close)
                    async with anyio.create_task_group() as self._tasks:
                        task_status.started()
                        await stopping.wait()
                        self._tasks.cancel_scope.cancel()
            tasks.cancel_scope.cancel()

    async def drain(self, seconds: float) -> None:
        """Refuse new work, give running turns ``seconds``, interrupt the rest, and end all readers."""
        self.draining = True
        with anyio.move_on_after(seconds):
            await self._quiet()
        for session in list(self._sessions.values()):
            await session.stop_turns()
        with anyio.move_on_after(STOP_SECONDS):
            await self._quiet()
        for session in list(self._sessions.values()):
            session.feed.end()

    async def _quiet(self) -> None:
        for session in list(self._sessions.values()):
            await session.quiet()

    def readiness(self) -> list[str]:
        """Why new work would be refused now; empty when it would not."""
        return ["draining"] if self.draining else []

    # Sessions.

    async def create(self, principal: Principal, request: NewSession) -> SessionView:
        """Open a session. Its agent starts with its first turn.

        Raises `Unavailable` (``draining``, or why no agent can be started), `Conflict` (``session_exists``),
        `Exhausted` (``too_many_sessions``), `NotAllowed`, `InvalidRequest`.
        """
        self._refuse_while_draining()
        session_id = request.session_id or uuid.uuid4().hex
        driver = self._driver(request.driver)
        options = self._options(request)
        if session_id in self._creating:
            raise Conflict(f"session {session_id!r} exists already", code="session_exists")
        self._refuse_too_many()
        self._creating.add(session_id)
        try:
            if await self._store.get(session_id) is not None:
                raise Conflict(f"session {session_id!r} exists already", code="session_exists")
            await driver.check()
            cwd = await self._workspace(session_id, request.cwd)
            now = rfc3339()
            record = SessionRecord(
                session_id=session_id,
                agent_id=str(uuid.uuid4()),
                owner=principal.name,
                driver=driver.name,
                state=State.IDLE,
                cwd=str(cwd),
                own_workspace=request.cwd is None,
                options=options,
                created_at=now,
                last_active_at=now,
                title=request.title,
                metadata=request.metadata,
            )
            feed = Feed(session_id, self._store, 0)
            with anyio.CancelScope(shield=True):
                await self._store.create(record)
                await feed.append([Draft(SessionChange(type="session", state=State.IDLE, reason="created"))], record)
                session = self._start(record, feed)
        finally:
            self._creating.discard(session_id)
        return session.view()

    def _start(self, record: SessionRecord, feed: Feed) -> Session:
        if self._tasks is None:
            raise Unavailable("the engine is not running", code="not_running")
        session = self._sessions[record.session_id] = Session(
            record,
            feed=feed,
            store=self._store,
            driver=self._drivers[record.driver],
            folder=self._agent_folder(record),
            policy=self._policy,
        )
        self._tasks.start_soon(self._keep, session, name=f"session {record.session_id}")
        return session

    async def _keep(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            if session.record.state is State.CLOSED:
                del self._sessions[session.record.session_id]

    def _agent_folder(self, record: SessionRecord) -> Path:
        return self._policy.data_dir / "agents" / record.agent_id

    async def sessions(
        self, principal: Principal, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[SessionView], str | None]:
        """A page of the caller's sessions (an admin's: everybody's), newest first, and the next page's cursor."""
        owner = None if principal.admin else principal.name
        records, following = await self._store.list(owner=owner, state=state, limit=limit, cursor=cursor)
        return [self._view(record) for record in records], following

    async def session(self, principal: Principal, session_id: str) -> SessionView:
        return self._view(await self._record(principal, session_id))

    async def close(self, principal: Principal, session_id: str, *, purge: bool = False) -> None:
        """Stop the session's agent and free its slot; with ``purge`` forget its history and delete its workspace."""
        record = await self._record(principal, session_id)
        if session := self._sessions.get(session_id):
            session.close()
            with anyio.move_on_after(STOP_SECONDS) as waiting:
                await session.finished.wait()
            if waiting.cancelled_caught:
                raise Unavailable("the agent is still stopping; try again", code="still_stopping")
        if purge:
            with anyio.CancelScope(shield=True):
                await self._store.delete(session_id)
                await anyio.to_thread.run_sync(remove, self._agent_folder(record))
                if record.own_workspace:
                    await anyio.to_thread.run_sync(remove, Path(record.cwd))

    # Turns.

    async def query(self, principal: Principal, session_id: str, request: NewTurn) -> TurnView:
        """Accept a turn: from here on it runs, whoever goes away. Raises as `Session.accept`."""
        record = await self._record(principal, session_id)
        if self.draining and not await self._store.turn(session_id, request.turn_id or ""):
            self._refuse_while_draining()
        session = self._sessions.get(session_id)
        if session is not None:
            return await session.accept(principal, request)
        if request.turn_id and (span := await self._store.turn(session_id, request.turn_id)):
            return TurnView(request.turn_id, session_id, "complete", span.first_seq, created=False)
        raise Conflict(f"the session is {record.state}", code="session_closed")

    async def interrupt(self, principal: Principal, session_id: str) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``)."""
        await self._record(principal, session_id)
        if (session := self._sessions.get(session_id)) is None:
            raise Conflict("no turn is running", code="not_running")
        session.interrupt()

    async def answer(self, principal: Principal, session_id: str, request_id: str, decision: Decision) -> None:
        """Answer a permission request. Raises as `Permissions.resolve`."""
        await self._record(principal, session_id)
        if (session := self._sessions.get(session_id)) is None:
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        await session.answer(principal, request_id, decision)

    # Reading.

    async def reader(
        self, principal: Principal, session_id: str, *, after: int = 0, turn_id: str | None = None
    ) -> Reader:
        """A cursor behind ``after``, over one turn or the whole session.

        Raises `NotFound` (also ``turn_not_found``) or `InvalidRequest` (``after_too_large``).
        """
        feed = self._feed(await self._record(principal, session_id))
        _check_after(feed, after)
        if turn_id is not None:
            span = await self._store.turn(session_id, turn_id)
            if span is None:
                raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")
            after = max(after, span.first_seq - 1)
        return Reader(feed, after=after, turn_id=turn_id)

    async def resume(
        self, principal: Principal, session_id: str, last_seq: int, *, turn_id: str | None = None
    ) -> Reader | None:
        """A cursor behind ``last_seq`` over the turn to which that event belongs (else over ``turn_id``).

        None when nothing of it is left to send. Raises as `reader`.
        """
        record = await self._record(principal, session_id)
        _check_after(self._feed(record), last_seq)
        event = await self._store.event(session_id, last_seq)
        if event is not None and event.turn_id is not None:
            turn_id = event.turn_id
        span = await self._store.turn(session_id, turn_id) if turn_id is not None else None
        if span is None or (span.last_seq is not None and span.last_seq <= last_seq):
            return None
        return await self.reader(principal, session_id, after=last_seq, turn_id=span.turn_id)

    async def history(
        self, principal: Principal, session_id: str, *, after: int, limit: int
    ) -> tuple[Sequence[Event], bool]:
        """At most ``limit`` events behind ``after``, and whether there are more now."""
        feed = self._feed(await self._record(principal, session_id))
        _check_after(feed, after)
        events = await self._store.read(session_id, after, limit)
        return events, bool(events) and events[-1].seq < feed.last_seq

    # Behind the counter.

    async def _record(self, principal: Principal, session_id: str) -> SessionRecord:
        session = self._sessions.get(session_id)
        record = session.record if session else await self._store.get(session_id)
        if record is None or not principal.may_see(record.owner):
            raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
        return record

    def _feed(self, record: SessionRecord) -> Feed:
        if session := self._sessions.get(record.session_id):
            return session.feed
        return Feed(record.session_id, self._store, record.last_seq, ended=True)

    def _view(self, record: SessionRecord) -> SessionView:
        session = self._sessions.get(record.session_id)
        return session.view() if session else session_view(record)

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Unavailable("the server is stopping", code="draining")

    def _refuse_too_many(self) -> None:
        opened = sum(session.record.state in OPEN for session in self._sessions.values()) + len(self._creating)
        if opened >= self._policy.max_sessions:
            raise Exhausted(
                f"{self._policy.max_sessions} sessions are open, which is the limit (max_sessions)",
                code="too_many_sessions",
                retry_after=30,
            )

    def _driver(self, name: str | None) -> AgentDriver:
        name = name or self._default_driver
        if name not in self._drivers:
            raise InvalidRequest(
                f"there is no driver {name!r}; there are: {', '.join(self._drivers)}", code="unknown_driver"
            )
        return self._drivers[name]

    def _options(self, request: NewSession) -> AgentOptions:
        mode = request.permission_mode or "default"
        if mode not in self._policy.permission_modes:
            raise NotAllowed(f"the permission mode {mode!r} is not allowed here (permission_modes)")
        return AgentOptions(
            model=request.model or self._default_model,
            permission_mode=mode,
            system_prompt=request.system_prompt,
            append_system_prompt=request.append_system_prompt,
            allowed_tools=request.allowed_tools,
            disallowed_tools=request.disallowed_tools,
            mcp_servers=request.mcp_servers,
            max_turns=request.max_turns,
        )

    async def _workspace(self, session_id: str, cwd: str | None) -> Path:
        if cwd is not None:
            return await anyio.to_thread.run_sync(resolve_cwd, cwd, self._policy.workspace_roots)
        folder = self._policy.workspace_roots[0] / session_id
        await anyio.to_thread.run_sync(make_private, folder)
        return folder


def _check_after(feed: Feed, after: int) -> None:
    if after > feed.last_seq:
        raise InvalidRequest(f"the history ends at {feed.last_seq}, before {after}", code="after_too_large")


async def _tell_cancellation(stopping: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    try:
        task_status.started()
        await anyio.sleep_forever()
    finally:
        stopping.set()
