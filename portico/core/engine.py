"""The engine: all sessions, whoever they belong to and however they are reached."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.agent import AgentDriver, AgentOptions, Decision, require
from portico.core.audit import Audit, NoAudit
from portico.core.clock import rfc3339
from portico.core.errors import (
    Conflict,
    Exhausted,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PorticoError,
    SessionGone,
    SessionNotFound,
    StoreFailed,
    Unavailable,
)
from portico.core.events import Draft, Event, SessionChange
from portico.core.feed import Feed
from portico.core.folders import Folders
from portico.core.guard import GuardedDriver
from portico.core.life import Life
from portico.core.lives import Lives
from portico.core.observer import Observation, Observer
from portico.core.occupancy import Occupancy
from portico.core.policy import Policy
from portico.core.pool import Pool, Pooled
from portico.core.principal import Principal
from portico.core.quota import TurnRate
from portico.core.reader import Reader, open_reader, read_page, resume_reader
from portico.core.recovery import recover
from portico.core.requests import NewSession, NewTurn, SessionChanges, SessionView, TurnView, session_view
from portico.core.seat import Seat
from portico.core.session import Session
from portico.core.slots import ProcessSlots
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord
from portico.core.suggestions import open_folders
from portico.core.turn_intake import Retired

log = logging.getLogger("portico.engine")

STOP_SECONDS = 15.0
"""How long interrupted turns, or the agent of a closed session, may take to end."""

TIDY_SECONDS = 300.0

OBSERVE_STOP_SECONDS = 5.0
"""How long observers may take at the end for what they have not been told yet."""


class Engine:
    """Every method takes the caller first, and treats what is somebody else's as unknown.

    The owner is checked once, in `_allow`, which returns the session's `Life`. All that follows a wait is done by way
    of that life: to the session that the caller was allowed to use, or not at all (`SessionGone`).

    All raise errors of `portico.core.errors` only.
    """

    audit: Audit = NoAudit()

    def __init__(
        self,
        *,
        store: EventStore,
        drivers: Mapping[str, AgentDriver],
        default_driver: str,
        default_model: str | None,
        policy: Policy,
        observers: Mapping[str, Observer] | None = None,
        check: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``check`` says in words, at once, why the place where everything is kept is of no use any more.

        ``failed`` says what has failed without keeping the rest from working; others may add what is beside the engine.
        """
        self.draining = False
        self.failed: dict[str, str] = {}
        self._check = check
        self._store = store
        self._drivers = {name: GuardedDriver(name, driver) for name, driver in drivers.items()}
        self._default_driver = default_driver
        self._default_model = default_model
        self._policy = policy
        self._folders = Folders(
            policy.data_dir, policy.workspace_roots, policy.files, private=policy.private_workspaces
        )
        self._slots = ProcessSlots(policy.max_processes)
        self._pool: Pool | None = None
        self._lives = Lives(store, self._tell)
        self._observations = [Observation(*each, self._observed) for each in (observers or {}).items()]
        self._opening: dict[str, str] = {}  # session -> its owner
        self._unborn: set[str] = set()  # of these, those that are new, and not stored whole
        self._rate = TurnRate(policy.max_turns_per_minute)
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own store, drivers and sessions until cancelled; then stop every agent, and only then the rest."""
        async with anyio.create_task_group() as tasks:
            stopping = anyio.Event()
            await tasks.start(_tell_cancellation, stopping)
            with anyio.CancelScope() as scope:
                async with AsyncExitStack() as stack:
                    try:
                        await self._folders.open()
                        stack.callback(self._folders.close)
                        await self._store.open()
                        stack.push_async_callback(self._store.close)
                        for driver in self._drivers.values():
                            await driver.open()
                            stack.push_async_callback(driver.close)
                    finally:
                        scope.shield = True  # or everything would be cancelled at once
                    async with anyio.create_task_group() as observing:
                        for observation in self._observations:
                            observing.start_soon(observation.run, name=f"observer {observation.name}")
                        async with anyio.create_task_group() as self._tasks:
                            await self._begin(self._tasks)
                            task_status.started()
                            await stopping.wait()
                            self._tasks.cancel_scope.cancel()
                        with anyio.move_on_after(OBSERVE_STOP_SECONDS):
                            for observation in self._observations:
                                await observation.caught_up()
                        observing.cancel_scope.cancel()
            tasks.cancel_scope.cancel()

    async def _begin(self, tasks: TaskGroup) -> None:
        async for record in recover(self._store):
            if record.driver in self._drivers:
                self._start(self._lives.of(record.session_id), record)
        driver = self._drivers[self._default_driver]
        if self._policy.pool_size and "claim" in driver.capabilities:
            self._pool = Pool(
                driver,
                self._policy.options(NewSession(), self._default_model),
                self._policy.pool_size,
                slots=self._slots,
                folders=self._folders,
            )
            tasks.start_soon(self._pool.run)
        tasks.start_soon(self._tidy)

    async def _tidy(self) -> None:
        while True:
            try:
                await self._store.tidy()
            except StoreFailed as failure:
                log.warning("the store could not be tidied: %s", failure.detail)
            except Exception:
                log.exception("the store could not be tidied")
            await anyio.sleep(TIDY_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Refuse new work, give running turns ``seconds``, interrupt the rest, and end all readers."""
        self.draining = True
        with anyio.move_on_after(seconds):
            await self._quiet()
        for session in list(self._lives.live.values()):
            await session.stop_turns()
        with anyio.move_on_after(STOP_SECONDS):
            await self._quiet()
        for feed in self._lives.feeds:
            feed.end()

    async def _quiet(self) -> None:
        for session in list(self._lives.live.values()):
            await session.quiet()

    def hurry(self) -> None:
        """From now on agents are killed rather than asked to stop."""
        for session in self._lives.live.values():
            session.hurry()

    def readiness(self) -> list[str]:
        """Why new work would be refused now; empty when it would not."""
        reasons = ["draining"] if self.draining else []
        reasons += [fault for fault in (self._check(), self._folders.fault()) if fault is not None]
        return reasons + sorted({session.trouble for session in self._lives.live.values() if session.trouble})

    async def check_driver(self, name: str | None = None) -> None:
        """Raises `AgentUnavailable` where this driver (None: the default) can start no agent; `failed` has it then."""
        driver = self._driver(name)
        part = f"driver {driver.name}"
        try:
            await driver.check()
        except PorticoError as problem:
            self.failed[part] = problem.detail
            raise
        self.failed.pop(part, None)

    def occupancy(self) -> Occupancy:
        sessions = list(self._lives.live.values())
        return Occupancy(
            sessions=Counter(str(session.record.state) for session in sessions),
            processes=self._slots.taken,
            process_limit=self._slots.limit,
            process_queue=self._slots.waiting,
            pooled=self._pool.ready if self._pool else 0,
            turn_queue=sum(session.queued for session in sessions),
            permissions=sum(len(session.permissions.pending) for session in sessions),
            observers={observation.name: observation.behind for observation in self._observations},
        )

    # Sessions.

    async def create(self, principal: Principal, request: NewSession) -> SessionView:
        """Open a session. Its agent starts with its first turn, unless one is ready.

        Raises `Unavailable` (``draining``, or why no agent can be started), `Conflict` (``session_exists``),
        `Exhausted` (``too_many_sessions``), `NotAllowed`, `InvalidRequest`.
        """
        self._refuse_while_draining()
        _refuse_bound(principal)
        session_id = request.session_id or uuid.uuid4().hex
        driver = self._driver(request.driver)
        options = self._policy.options(request, self._default_model)
        if session_id in self._opening:
            raise _taken(session_id)
        self._refuse_too_many(principal.name)
        self._opening[session_id] = principal.name
        try:
            taken = await self._store.get(session_id) is not None
            life = self._lives.of(session_id)  # only now: one that was purged meanwhile is another
            if taken or life.over:
                raise _taken(session_id)
            await self.check_driver(driver.name)
            self._unborn.add(session_id)
            with anyio.CancelScope(shield=True):
                session = await self._create(principal, life, driver, options, request)
        finally:
            self._opening.pop(session_id, None)
            self._unborn.discard(session_id)
        return session.view()

    async def _create(
        self, principal: Principal, life: Life, driver: AgentDriver, options: AgentOptions, request: NewSession
    ) -> Session:
        pooled: Pooled | None = None
        if request.cwd is not None:
            agent_id, cwd = str(uuid.uuid4()), await self._folders.given(request.cwd)
        elif self._pool is not None and driver.name == self._default_driver and (pooled := self._pool.claim(options)):
            agent_id, cwd = pooled.spec.agent_id, pooled.spec.cwd
        else:
            agent_id = str(uuid.uuid4())
            cwd = await self._folders.workspace(agent_id)
        now = rfc3339()
        record = SessionRecord(
            session_id=life.session_id,
            agent_id=agent_id,
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
        feed = self._lives.new_feed(life)
        stored = False
        try:
            await self._store.create(record)
            stored = True
            await feed.append([Draft(SessionChange(type="session", state=State.IDLE, reason="created"))], record)
        except BaseException as error:
            await self._undo_create(life, record, pooled, stored)
            if isinstance(error, Conflict):  # in the store's words, which may say more of the session that there is
                raise _taken(life.session_id) from None
            raise
        return self._start(life, record, pooled)

    async def _undo_create(self, life: Life, record: SessionRecord, pooled: Pooled | None, stored: bool) -> None:
        self._lives.drop_feed(life)
        if pooled is not None:
            await pooled.agent.close()
            self._slots.give_back()
        await self._folders.drop(record.agent_id, Path(record.cwd) if record.own_workspace else None)
        if stored:
            with suppress(StoreFailed):
                await self._lives.forget(life)

    def _start(self, life: Life, record: SessionRecord, pooled: Pooled | None = None) -> Session:
        if self._tasks is None:
            raise Unavailable("the engine is not running", code="not_running")
        seat = Seat(self._driver_of(record), self._slots, self._folders, wait=self._policy.process_wait)
        if pooled is not None:
            seat.adopt(pooled)
        session = self._lives.live[life.session_id] = Session(
            record,
            feed=self._lives.feed(life, record),
            seat=seat,
            slots=self._slots,
            folder=self._folders.agent(record.agent_id),
            policy=self._policy,
        )
        self._tasks.start_soon(self._keep, session, name=f"session {record.session_id}")
        return session

    async def _keep(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            if self._lives.live.get(session.record.session_id) is session:
                del self._lives.live[session.record.session_id]
            if session.record.state is State.FAILED:  # its feed is over; who asks again gets a new one
                self._lives.drop_feed(session.life)

    async def sessions(
        self, principal: Principal, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[SessionView], str | None]:
        """A page of the caller's sessions (an admin's: everybody's), newest first, and the next page's cursor."""
        _refuse_bound(principal)
        owner = None if principal.admin else principal.name
        records, following = await self._store.list(owner=owner, state=state, limit=limit, cursor=cursor)
        return [self._view(record) for record in records], following

    async def session(self, principal: Principal, session_id: str) -> SessionView:
        _, record = await self._allow(principal, session_id)
        return self._view(record)

    async def bind(self, principal: Principal, session_id: str) -> Principal:
        """The same caller, bound to the session that has this id now: a later one of the id is unknown to it.

        For who comes back to a session more than once for one request or conversation, and waits in between.
        """
        _, record = await self._allow(principal, session_id)
        return replace(principal, bound_to=record.agent_id)

    async def identity(self, principal: Principal, session_id: str) -> str:
        """What this session has in common with no other, not even a later one of its id.

        Raises `Conflict` (``session_closed``).
        """
        _, record = await self._allow(principal, session_id)
        _refuse_closed(record)
        return record.agent_id

    async def change(self, principal: Principal, session_id: str, changes: SessionChanges) -> SessionView:
        """Change a session; model and permission mode hold from its next turn on.

        Raises `Conflict` (``session_closed``, ``not_supported``) or `NotAllowed`.
        """
        life, record = await self._allow(principal, session_id)
        _refuse_closed(record)
        driver = self._driver_of(record)
        for name in ("model", "permission_mode"):
            if name in changes.given:
                require(driver, f"set_{name}")
        if "permission_mode" in changes.given:
            self._policy.check_mode(changes.given["permission_mode"])
        with anyio.CancelScope(shield=True):
            async with life.changing:
                view = await self._change(life, changes)
        return view

    async def _change(self, life: Life, changes: SessionChanges) -> SessionView:
        if (session := self._lives.session(life)) is None:
            before = await self._stored(life)
            session = self._lives.session(life)
        if session is None:
            record = changes.apply(_refuse_closed(before))
            feed = self._lives.feed(life, record)
            await feed.append(changes.drafts(before), record)
            if (session := self._lives.session(life)) is None:
                return session_view(record, last_seq=feed.last_seq)
        _refuse_closed(session.record)
        await session.change(changes)
        return session.view()

    async def close(self, principal: Principal, session_id: str, *, purge: bool = False) -> None:
        """Stop the session's agent and free its slot; with ``purge`` forget its history and delete its workspace."""
        life, record = await self._allow(principal, session_id)
        session = self._lives.session(life)
        if session is None and record.state is not State.CLOSED:
            session = self._start(life, record)
        if session is not None:
            session.close()
            with anyio.move_on_after(STOP_SECONDS) as waiting:
                await session.closed()
            if waiting.cancelled_caught:
                raise Unavailable("the agent is still stopping; try again", code="still_stopping")
        if purge:
            life.check()
            with anyio.CancelScope(shield=True):
                await self._lives.forget(life)
                await self._folders.drop(record.agent_id, Path(record.cwd) if record.own_workspace else None)

    # Turns.

    async def query(self, principal: Principal, session_id: str, request: NewTurn) -> TurnView:
        """Accept a turn: from here on it runs, whoever goes away. Raises as `Session.accept` and, dormant, `create`."""
        life, _ = await self._allow(principal, session_id)
        if request.turn_id and (span := await life.turn(request.turn_id)) and span.last_seq:
            return TurnView(request.turn_id, session_id, "complete", span.first_seq, created=False)
        while True:
            if self._lives.session(life) is None or not request.turn_id:
                self._refuse_while_draining()
            session = await self._open(life)
            try:
                return await session.accept(principal, request, self._rate, draining=self.draining)
            except Retired:
                await session.finished.wait()

    async def withdraw(self, principal: Principal, session_id: str, turn_id: str) -> None:
        """Take a turn out of the queue. Raises as `Session.withdraw`."""
        life, _ = await self._allow(principal, session_id)
        if session := self._lives.session(life):
            await session.withdraw(turn_id)
        elif await life.turn(turn_id):
            raise Conflict("the turn is over", code="not_queued")
        else:
            raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")

    async def interrupt(self, principal: Principal, session_id: str) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``, ``not_supported``)."""
        life, record = await self._allow(principal, session_id)
        require(self._driver_of(record), "interrupt")
        if (session := self._lives.session(life)) is None:
            raise Conflict("no turn is running", code="not_running")
        session.interrupt()

    async def answer(self, principal: Principal, session_id: str, request_id: str, decision: Decision) -> None:
        """Answer a permission request. Raises as `Permissions.resolve`, and `NotAllowed`."""
        life, record = await self._allow(principal, session_id)
        require(self._driver_of(record), "permissions")
        if decision.remember and principal.by_ticket:
            raise NotAllowed("with a ticket nothing can be remembered: that changes the session")
        if (session := self._lives.session(life)) is None:
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        folders: Mapping[str, str] = {}
        if decision.remember and (request := session.permissions.request(request_id)) is not None:
            folders = await open_folders(request, record.cwd, self._folders)
        await session.answer(principal, request_id, decision, folders)

    # Reading.

    async def pending(self, principal: Principal, session_id: str) -> Sequence[Event]:
        """The events of the permission requests that wait for an answer, oldest first."""
        life, _ = await self._allow(principal, session_id)
        session = self._lives.session(life)
        return session.permissions.events if session else ()

    async def reader(
        self, principal: Principal, session_id: str, *, after: int = 0, turn_id: str | None = None
    ) -> Reader:
        """A cursor behind ``after``, over one turn or the whole session.

        Raises `NotFound` (also ``turn_not_found``) or `InvalidRequest` (``after_too_large``).
        """
        life, record = await self._allow(principal, session_id)
        return await open_reader(self._lives.feed(life, record), after, turn_id)

    async def resume(
        self, principal: Principal, session_id: str, last_seq: int, *, turn_id: str | None = None
    ) -> Reader | None:
        """A cursor behind ``last_seq`` over the turn to which that event belongs (else over ``turn_id``).

        None when nothing of it is left to send. Raises as `reader`.
        """
        life, record = await self._allow(principal, session_id)
        return await resume_reader(self._lives.feed(life, record), last_seq, turn_id)

    async def history(
        self, principal: Principal, session_id: str, *, after: int, limit: int
    ) -> tuple[Sequence[Event], bool]:
        """At most ``limit`` events behind ``after``, and whether there are more; a gap event tells what is missing."""
        life, record = await self._allow(principal, session_id)
        return await read_page(self._lives.feed(life, record), after, limit)

    # Behind the counter.

    async def _allow(self, principal: Principal, session_id: str) -> tuple[Life, SessionRecord]:
        """The session that has this id now, if the caller may use it. Raises `SessionNotFound`."""
        life = self._lives.of(session_id)
        try:
            record = await self._lives.record(life)
        except SessionGone:  # before it was known who may use it
            raise SessionNotFound(session_id) from None
        if record is None or session_id in self._unborn:
            raise SessionNotFound(session_id)
        if principal.bound_to not in (None, record.agent_id):
            raise SessionGone(session_id)
        if not principal.may_see(record.owner):
            self._note_stranger(principal, session_id)
            raise SessionNotFound(session_id)
        return life, record

    def _note_stranger(self, principal: Principal, session_id: str) -> None:
        """Called where somebody is after a session of somebody else's."""

    async def _stored(self, life: Life) -> SessionRecord:
        """The record of a session that is not live. Raises `SessionNotFound`."""
        record = await life.record()
        if record is None:
            raise SessionNotFound(life.session_id)
        return record

    async def _open(self, life: Life) -> Session:
        """The live session, brought back where it is dormant. Raises `Conflict` (``session_closed``) or `Exhausted`."""
        if session := self._lives.session(life):
            return session
        record = await self._stored(life)
        if session := self._lives.session(life):
            return session
        if record.state in (State.CLOSED, State.FAILED):
            raise Conflict(f"the session is {record.state}", code="session_closed")
        self._refuse_too_many(record.owner)
        return self._start(life, record)

    def _tell(self, feed: Feed, first_seq: int) -> None:
        for observation in self._observations:
            observation.note(feed, first_seq)

    async def _observed(self, life: Life) -> SessionView | None:
        try:
            record = await self._lives.record(life)
        except SessionGone:
            return None
        return self._view(record) if record else None

    def _view(self, record: SessionRecord) -> SessionView:
        session = self._lives.live.get(record.session_id)
        return session.view() if session and session.record.agent_id == record.agent_id else session_view(record)

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Unavailable("the server is stopping", code="draining")

    def _refuse_too_many(self, owner: str) -> None:
        if len(self._lives.live) + len(self._opening) >= self._policy.max_sessions:
            raise Exhausted(
                f"{self._policy.max_sessions} sessions are open, which is the limit (max_sessions)",
                code="too_many_sessions",
                retry_after=30,
            )
        limit = self._policy.max_sessions_per_principal
        if limit is not None and self._count_sessions(owner) >= limit:
            raise Exhausted(
                f"{limit} sessions of {owner} are open, which is the limit (max_sessions_per_principal)",
                code="too_many_sessions",
                retry_after=30,
            )

    def _count_sessions(self, owner: str) -> int:
        live = (session.record.owner for session in self._lives.live.values())
        return sum(name == owner for name in (*live, *self._opening.values()))

    def _driver(self, name: str | None) -> AgentDriver:
        name = name or self._default_driver
        if name not in self._drivers:
            known = ", ".join(self._drivers)
            raise InvalidRequest(f"there is no driver {name!r}; there are: {known}", code="unknown_driver")
        return self._drivers[name]

    def _driver_of(self, record: SessionRecord) -> AgentDriver:
        if record.driver not in self._drivers:
            raise Unavailable(f"the session's driver {record.driver!r} is not loaded", code="driver_not_loaded")
        return self._drivers[record.driver]


def _refuse_closed(record: SessionRecord) -> SessionRecord:
    if record.state is State.CLOSED:
        raise Conflict("the session is closed", code="session_closed")
    return record


def _refuse_bound(principal: Principal) -> None:
    if principal.bound_to is not None:
        raise NotAllowed("this is bound to one session, and asks for something else")


def _taken(session_id: str) -> Conflict:
    """Says nothing but that the id is taken: the session may be somebody else's."""
    return Conflict(f"session {session_id!r} exists already", code="session_exists")


async def _tell_cancellation(stopping: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    try:
        task_status.started()
        await anyio.sleep_forever()
    finally:
        stopping.set()
