"""The engine: all sessions, whoever they belong to and however they are reached."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.agent import AgentDriver, AgentOptions, Decision, require
from portico.core.audit import Audit, NoAudit
from portico.core.changes import SessionChanges
from portico.core.clock import rfc3339
from portico.core.errors import Conflict, Exhausted, InvalidRequest, NotFound, PorticoError, StoreFailed, Unavailable
from portico.core.events import Draft, Event, SessionChange, gap_event
from portico.core.feed import Feed
from portico.core.folders import Folders
from portico.core.guard import GuardedDriver
from portico.core.observer import Observation, Observer
from portico.core.occupancy import Occupancy
from portico.core.policy import Policy
from portico.core.pool import Pool, Pooled
from portico.core.principal import Principal
from portico.core.rates import TurnRate
from portico.core.reader import Reader
from portico.core.recovery import recover
from portico.core.requests import NewSession, NewTurn, SessionView, TurnView
from portico.core.seat import Seat
from portico.core.session import Retired, Session
from portico.core.slots import ProcessSlots
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord
from portico.core.view import session_view

log = logging.getLogger("portico.engine")

STOP_SECONDS = 15.0
"""How long interrupted turns, or the agent of a closed session, may take to end."""

TIDY_SECONDS = 300.0

OBSERVE_STOP_SECONDS = 5.0
"""How long observers may take at the end for what they have not been told yet."""


class Engine:
    """Every method takes the caller first, and treats what is somebody else's as unknown.

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
        self._live: dict[str, Session] = {}
        self._feeds: WeakValueDictionary[str, Feed] = WeakValueDictionary()
        self._observations = [Observation(*each, self._observed) for each in (observers or {}).items()]
        self._opening: dict[str, str] = {}  # session -> its owner
        self._unborn: set[str] = set()  # of these, those that are new, and not stored whole
        self._changing = anyio.Lock(fast_acquire=True)  # each change builds on the one before
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
                self._start(record, self._feed(record))
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
        for session in list(self._live.values()):
            await session.stop_turns()
        with anyio.move_on_after(STOP_SECONDS):
            await self._quiet()
        for feed in list(self._feeds.values()):
            feed.end()

    async def _quiet(self) -> None:
        for session in list(self._live.values()):
            await session.quiet()

    def hurry(self) -> None:
        """From now on agents are killed rather than asked to stop."""
        for session in self._live.values():
            session.seat.at_once = True

    def readiness(self) -> list[str]:
        """Why new work would be refused now; empty when it would not."""
        reasons = ["draining"] if self.draining else []
        reasons += [fault for fault in (self._check(), self._folders.fault()) if fault is not None]
        return reasons + sorted({session.trouble for session in self._live.values() if session.trouble})

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
        sessions = list(self._live.values())
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
        session_id = request.session_id or uuid.uuid4().hex
        driver = self._driver(request.driver)
        options = self._policy.options(request, self._default_model)
        if session_id in self._opening:
            raise Conflict(f"session {session_id!r} exists already", code="session_exists")
        self._refuse_too_many(principal.name)
        self._opening[session_id] = principal.name
        try:
            if await self._store.get(session_id) is not None:
                raise Conflict(f"session {session_id!r} exists already", code="session_exists")
            await self.check_driver(driver.name)
            self._unborn.add(session_id)
            with anyio.CancelScope(shield=True):
                session = await self._create(principal, session_id, driver, options, request)
        finally:
            self._opening.pop(session_id, None)
            self._unborn.discard(session_id)
        return session.view()

    async def _create(
        self, principal: Principal, session_id: str, driver: AgentDriver, options: AgentOptions, request: NewSession
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
            session_id=session_id,
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
        feed = self._feeds[session_id] = Feed(session_id, self._store, 0, told=self._tell)
        stored = False
        try:
            await self._store.create(record)
            stored = True
            await feed.append([Draft(SessionChange(type="session", state=State.IDLE, reason="created"))], record)
        except BaseException:
            await self._undo_create(record, pooled, stored)
            raise
        return self._start(record, feed, pooled)

    async def _undo_create(self, record: SessionRecord, pooled: Pooled | None, stored: bool) -> None:
        self._feeds.pop(record.session_id, None)
        if pooled is not None:
            await pooled.agent.close()
            self._slots.give_back()
        await self._folders.drop(record.agent_id, Path(record.cwd) if record.own_workspace else None)
        if stored:
            with suppress(StoreFailed):
                await self._store.delete(record.session_id)

    def _start(self, record: SessionRecord, feed: Feed, pooled: Pooled | None = None) -> Session:
        if self._tasks is None:
            raise Unavailable("the engine is not running", code="not_running")
        seat = Seat(self._driver_of(record), self._slots, self._folders, wait=self._policy.process_wait)
        if pooled is not None:
            seat.adopt(pooled)
        session = self._live[record.session_id] = Session(
            record,
            feed=feed,
            store=self._store,
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
            if self._live.get(session.record.session_id) is session:
                del self._live[session.record.session_id]
            if session.record.state is State.FAILED:  # its feed is over; who asks again gets a new one
                self._feeds.pop(session.record.session_id, None)

    async def sessions(
        self, principal: Principal, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[SessionView], str | None]:
        """A page of the caller's sessions (an admin's: everybody's), newest first, and the next page's cursor."""
        owner = None if principal.admin else principal.name
        records, following = await self._store.list(owner=owner, state=state, limit=limit, cursor=cursor)
        return [self._view(record) for record in records], following

    async def session(self, principal: Principal, session_id: str) -> SessionView:
        return self._view(await self._record(principal, session_id))

    async def identity(self, principal: Principal, session_id: str) -> str:
        """What this session has in common with no other, not even a later one of its id.

        Raises `Conflict` (``session_closed``).
        """
        record = await self._record(principal, session_id)
        if record.state is State.CLOSED:
            raise Conflict("the session is closed", code="session_closed")
        return record.agent_id

    async def change(self, principal: Principal, session_id: str, changes: SessionChanges) -> SessionView:
        """Change a session; model and permission mode hold from its next turn on.

        Raises `Conflict` (``session_closed``, ``not_supported``) or `NotAllowed`.
        """
        record = await self._record(principal, session_id)
        if record.state is State.CLOSED:
            raise Conflict("the session is closed", code="session_closed")
        driver = self._driver_of(record)
        for name in ("model", "permission_mode"):
            if name in changes.given:
                require(driver, f"set_{name}")
        if "permission_mode" in changes.given:
            self._policy.check_mode(changes.given["permission_mode"])
        with anyio.CancelScope(shield=True):
            async with self._changing:
                await self._change(principal, session_id, changes)
        return self._view(await self._record(principal, session_id))

    async def _change(self, principal: Principal, session_id: str, changes: SessionChanges) -> None:
        if session_id not in self._live:
            record = changes.apply(await self._record(principal, session_id))
            await self._feed(record).append([], record)
        if session := self._live.get(session_id):  # also where it has been brought back meanwhile
            await session.change(changes)

    async def close(self, principal: Principal, session_id: str, *, purge: bool = False) -> None:
        """Stop the session's agent and free its slot; with ``purge`` forget its history and delete its workspace."""
        record = await self._record(principal, session_id)
        if record.state is not State.CLOSED:
            session = self._live.get(session_id) or self._start(record, self._feed(record))
            session.close()
            with anyio.move_on_after(STOP_SECONDS) as waiting:
                await session.closed()
            if waiting.cancelled_caught:
                raise Unavailable("the agent is still stopping; try again", code="still_stopping")
        if purge:
            with anyio.CancelScope(shield=True):
                self._feed(record).end()
                self._feeds.pop(session_id, None)  # whoever still reads must not share it with a new session of this id
                self._live.pop(session_id, None)
                await self._store.delete(session_id)
                await self._folders.drop(record.agent_id, Path(record.cwd) if record.own_workspace else None)

    # Turns.

    async def query(self, principal: Principal, session_id: str, request: NewTurn) -> TurnView:
        """Accept a turn: from here on it runs, whoever goes away. Raises as `Session.accept` and, dormant, `create`."""
        await self._record(principal, session_id)
        if request.turn_id and (span := await self._store.turn(session_id, request.turn_id)) and span.last_seq:
            return TurnView(request.turn_id, session_id, "complete", span.first_seq, created=False)
        while True:
            if session_id not in self._live or not request.turn_id:
                self._refuse_while_draining()
            session = await self._open(principal, session_id)
            try:
                return await session.accept(principal, request, self._rate, draining=self.draining)
            except Retired:
                await session.finished.wait()

    async def withdraw(self, principal: Principal, session_id: str, turn_id: str) -> None:
        """Take a turn out of the queue. Raises as `Session.withdraw`."""
        await self._record(principal, session_id)
        if session := self._live.get(session_id):
            await session.withdraw(turn_id)
        elif await self._store.turn(session_id, turn_id):
            raise Conflict("the turn is over", code="not_queued")
        else:
            raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")

    async def interrupt(self, principal: Principal, session_id: str) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``, ``not_supported``)."""
        record = await self._record(principal, session_id)
        require(self._driver_of(record), "interrupt")
        if (session := self._live.get(session_id)) is None:
            raise Conflict("no turn is running", code="not_running")
        session.interrupt()

    async def answer(self, principal: Principal, session_id: str, request_id: str, decision: Decision) -> None:
        """Answer a permission request. Raises as `Permissions.resolve`."""
        record = await self._record(principal, session_id)
        require(self._driver_of(record), "permissions")
        if (session := self._live.get(session_id)) is None:
            raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
        await session.answer(principal, request_id, decision)

    # Reading.

    async def pending(self, principal: Principal, session_id: str) -> Sequence[Event]:
        """The events of the permission requests that wait for an answer, oldest first."""
        await self._record(principal, session_id)
        session = self._live.get(session_id)
        return session.permissions.events if session else ()

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
        if span.last_seq is not None and await self._store.event(session_id, span.last_seq) is None:
            return None  # it was deleted
        return await self.reader(principal, session_id, after=last_seq, turn_id=span.turn_id)

    async def history(
        self, principal: Principal, session_id: str, *, after: int, limit: int
    ) -> tuple[Sequence[Event], bool]:
        """At most ``limit`` events behind ``after``, and whether there are more; a gap event tells what is missing."""
        feed = self._feed(await self._record(principal, session_id))
        _check_after(feed, after)
        events = list(await self._store.read(session_id, after, limit))
        more = bool(events) and events[-1].seq < feed.last_seq
        first = events[0].seq if events else feed.last_seq + 1
        if first > after + 1:
            events.insert(0, gap_event(session_id, after, first))
        return events, more

    # Behind the counter.

    async def _record(self, principal: Principal, session_id: str) -> SessionRecord:
        session = self._live.get(session_id)
        record = session.record if session else await self._store.get(session_id)
        if record is None or session_id in self._unborn or not principal.may_see(record.owner):
            raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
        return record

    async def _open(self, principal: Principal, session_id: str) -> Session:
        """The live session, brought back where it is dormant. Raises `Conflict` (``session_closed``) or `Exhausted`."""
        if session := self._live.get(session_id):
            return session
        record = await self._record(principal, session_id)
        if session := self._live.get(session_id):
            return session
        if record.state in (State.CLOSED, State.FAILED):
            raise Conflict(f"the session is {record.state}", code="session_closed")
        self._refuse_too_many(record.owner)
        return self._start(record, self._feed(record))

    def _feed(self, record: SessionRecord) -> Feed:
        feed = self._feeds.get(record.session_id)
        if feed is None:
            ended = record.state is State.CLOSED
            feed = Feed(record.session_id, self._store, record.last_seq, ended=ended, told=self._tell)
            self._feeds[record.session_id] = feed
        return feed

    def _tell(self, feed: Feed, first_seq: int) -> None:
        for observation in self._observations:
            observation.note(feed, first_seq)

    async def _observed(self, session_id: str) -> SessionView | None:
        session = self._live.get(session_id)
        record = session.record if session else await self._store.get(session_id)
        return self._view(record) if record else None

    def _view(self, record: SessionRecord) -> SessionView:
        session = self._live.get(record.session_id)
        return session.view() if session else session_view(record)

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Unavailable("the server is stopping", code="draining")

    def _refuse_too_many(self, owner: str) -> None:
        if len(self._live) + len(self._opening) >= self._policy.max_sessions:
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
        live = (session.record.owner for session in self._live.values())
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


def _check_after(feed: Feed, after: int) -> None:
    if after > feed.last_seq:
        raise InvalidRequest(f"the history ends at {feed.last_seq}, before {after}", code="after_too_large")


async def _tell_cancellation(stopping: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    try:
        task_status.started()
        await anyio.sleep_forever()
    finally:
        stopping.set()
