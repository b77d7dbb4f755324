"""The engine: all sessions, of every owner and over every transport."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.agent import AgentDriver, Decision, require
from portico.core.audit import Audit, NoAudit, noting
from portico.core.creation import SessionCreation
from portico.core.drivers import Drivers
from portico.core.errors import Conflict, NotAllowed, NotFound, SessionGone, SessionNotFound, Unavailable
from portico.core.events import Event
from portico.core.folders import Folders
from portico.core.life import Life
from portico.core.lifecycle import keep_tidy, run_parts
from portico.core.lives import Lives
from portico.core.observer import Observations, Observer
from portico.core.occupancy import Occupancy
from portico.core.policy import Policy
from portico.core.pool import Pool
from portico.core.principal import Principal
from portico.core.quota import TurnRate
from portico.core.reader import Reader, open_reader, read_page, resume_reader
from portico.core.recovery import recover
from portico.core.requests import NewSession, NewTurn, SessionChanges, SessionView, TurnView, session_view
from portico.core.slots import ProcessSlots
from portico.core.starter import SessionStarter, stored
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord
from portico.core.suggestions import open_folders
from portico.core.turn_intake import Retired

STOP_SECONDS = 15.0
"""The time that interrupted turns, or the agent of a closed session, may take to end."""


class Engine:
    """All sessions of this server. Every method takes the caller first, and treats another owner's session as unknown.

    The owner is checked once, in `_allow`, which returns the session's `Life`. Whatever a method does after a wait goes
    through that life: it reaches the session that the caller was allowed to use, or fails (`SessionGone`).

    All methods raise errors of `portico.core.errors` only.

    Calls are noted in ``audit`` here, not in the transports, so that each call is noted once, over any transport.
    """

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
        audit: Audit | None = None,
    ) -> None:
        """``check`` returns at once, in words, why the data folder is no longer usable, or None.

        The attribute ``failed`` lists parts that failed while the rest works; parts outside the engine may add to it.
        """
        self.audit = audit or NoAudit()
        self.draining = False
        self.failed: dict[str, str] = {}
        self._check = check
        self._store = store
        self._drivers = Drivers(drivers, default_driver, self.failed)
        self._default_model = default_model
        self._policy = policy
        self._folders = Folders(
            policy.data_dir, policy.workspace_roots, policy.files, private=policy.private_workspaces
        )
        self._slots = ProcessSlots(policy.max_processes)
        self._observations = Observations(observers or {}, self._observed)
        self._lives = Lives(store, self._observations.note)
        self._starter = SessionStarter(self._lives, self._drivers, policy, slots=self._slots, folders=self._folders)
        self._creation = SessionCreation(
            store,
            self._lives,
            self._drivers,
            self._starter,
            policy,
            default_model=default_model,
            slots=self._slots,
            folders=self._folders,
        )
        self._rate = TurnRate(policy.max_turns_per_minute)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own store, drivers and sessions until cancelled; then stop every agent first, and the rest after that."""
        await run_parts(
            self._folders, self._store, self._drivers, self._observations, self._begin, task_status=task_status
        )

    async def _begin(self, tasks: TaskGroup) -> None:
        self._starter.tasks = tasks
        async for record in recover(self._store):
            if record.driver in self._drivers:
                self._starter.start(self._lives.of(record.session_id), record)
        driver = self._drivers.default
        if self._policy.pool_size and "claim" in driver.capabilities:
            self._creation.pool = Pool(
                driver,
                self._policy.options(NewSession(), self._default_model),
                self._policy.pool_size,
                slots=self._slots,
                folders=self._folders,
            )
            tasks.start_soon(self._creation.pool.run)
        tasks.start_soon(keep_tidy, self._store)

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
        """Kill agents from now on, rather than ask them to stop."""
        for session in self._lives.live.values():
            session.hurry()

    def readiness(self) -> list[str]:
        """Return the reasons why new work would be refused now; empty if it would be accepted."""
        reasons = ["draining"] if self.draining else []
        reasons += [fault for fault in (self._check(), self._folders.fault()) if fault is not None]
        return reasons + sorted({session.trouble for session in self._lives.live.values() if session.trouble})

    async def check_driver(self, name: str | None = None) -> None:
        """Raise `AgentUnavailable` if this driver (None: the default) can't start an agent, and note it in `failed`."""
        await self._drivers.check(name)

    def occupancy(self) -> Occupancy:
        sessions, pool = list(self._lives.live.values()), self._creation.pool
        return Occupancy(
            sessions=Counter(str(session.record.state) for session in sessions),
            processes=self._slots.taken,
            process_limit=self._slots.limit,
            process_queue=self._slots.waiting,
            pooled=pool.ready if pool else 0,
            turn_queue=sum(session.queued for session in sessions),
            permissions=sum(len(session.permissions.pending) for session in sessions),
            observers={observation.name: observation.behind for observation in self._observations},
        )

    # Sessions.

    async def create(self, principal: Principal, request: NewSession) -> SessionView:
        """Open a session. Its agent starts with its first turn, unless the pool has one ready.

        Raises `Unavailable` (``draining``, or the reason why no agent can be started), `Conflict` (``session_exists``),
        `Exhausted` (``too_many_sessions``), `NotAllowed`, `InvalidRequest`.
        """
        with noting(self.audit, "session.create", principal, session_id=request.session_id) as about:
            self._refuse_while_draining()
            _refuse_bound(principal)
            view = (await self._creation.create(principal, request)).view()
            about["session_id"] = view["session_id"]
        return view

    async def sessions(
        self, principal: Principal, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[SessionView], str | None]:
        """Return a page of the caller's sessions (all sessions for an admin), newest first, and the next cursor."""
        _refuse_bound(principal)
        owner = None if principal.admin else principal.name
        records, following = await self._store.list(owner=owner, state=state, limit=limit, cursor=cursor)
        return [self._view(record) for record in records], following

    async def session(self, principal: Principal, session_id: str) -> SessionView:
        _, record = await self._allow(principal, session_id)
        return self._view(record)

    async def bind(self, principal: Principal, session_id: str) -> Principal:
        """Return the same caller, bound to the session that has this id now: later ones of this id are unknown to it.

        Use it for one request or conversation that calls for the same session several times, with waits in between.
        """
        _, record = await self._allow(principal, session_id)
        return replace(principal, bound_to=record.agent_id)

    async def identity(self, principal: Principal, session_id: str) -> str:
        """Return a value that is unique to this session, even among later sessions with the same id.

        Raises `Conflict` (``session_closed``).
        """
        _, record = await self._allow(principal, session_id)
        _refuse_closed(record)
        return record.agent_id

    async def change(self, principal: Principal, session_id: str, changes: SessionChanges) -> SessionView:
        """Change a session; a new model or permission mode takes effect with its next turn.

        Raises `Conflict` (``session_closed``, ``not_supported``) or `NotAllowed`.
        """
        with noting(self.audit, "session.change", principal, session_id=session_id):
            life, record = await self._allow(principal, session_id)
            _refuse_closed(record)
            driver = self._drivers.of(record)
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
            before = await stored(life)
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
        """Stop the session's agent and free its slot; with ``purge`` also delete its history and its workspace."""
        with noting(self.audit, "session.purge" if purge else "session.close", principal, session_id=session_id):
            life, record = await self._allow(principal, session_id)
            session = self._lives.session(life)
            if session is None and record.state is not State.CLOSED:
                session = self._starter.start(life, record)
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
        """Accept a turn, which runs even if the caller disconnects.

        Raises as `Session.accept` and, for a dormant session, as `create`."""
        with noting(self.audit, "turn.query", principal, session_id=session_id, turn_id=request.turn_id) as about:
            turn = await self._query(principal, session_id, request)
            about["turn_id"] = turn.turn_id
            if not turn.created:
                about.clear()
        return turn

    async def _query(self, principal: Principal, session_id: str, request: NewTurn) -> TurnView:
        life, _ = await self._allow(principal, session_id)
        if request.turn_id and (span := await life.turn(request.turn_id)) and span.last_seq:
            return TurnView(request.turn_id, session_id, "complete", span.first_seq, created=False)
        while True:
            if self._lives.session(life) is None or not request.turn_id:
                self._refuse_while_draining()
            session = await self._starter.open(life)
            try:
                return await session.accept(principal, request, self._rate, draining=self.draining)
            except Retired:
                await session.finished.wait()

    async def withdraw(self, principal: Principal, session_id: str, turn_id: str) -> None:
        """Remove a turn from the queue. Raises as `Session.withdraw`."""
        with noting(self.audit, "turn.withdraw", principal, session_id=session_id, turn_id=turn_id):
            life, _ = await self._allow(principal, session_id)
            if session := self._lives.session(life):
                await session.withdraw(turn_id)
            elif await life.turn(turn_id):
                raise Conflict("the turn is over", code="not_queued")
            else:
                raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")

    async def interrupt(self, principal: Principal, session_id: str) -> None:
        """Stop the running turn. Raises `Conflict` (``not_running``, ``not_supported``)."""
        with noting(self.audit, "turn.interrupt", principal, session_id=session_id):
            life, record = await self._allow(principal, session_id)
            require(self._drivers.of(record), "interrupt")
            if (session := self._lives.session(life)) is None:
                raise Conflict("no turn is running", code="not_running")
            session.interrupt()

    async def answer(self, principal: Principal, session_id: str, request_id: str, decision: Decision) -> None:
        """Answer a permission request. Raises as `Permissions.resolve`, and `NotAllowed`."""
        action, remember = f"permission.{decision.behavior}", True if decision.remember else None
        with noting(self.audit, action, principal, session_id=session_id, request_id=request_id, remember=remember):
            life, record = await self._allow(principal, session_id)
            require(self._drivers.of(record), "permissions")
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
        """Return the events of the permission requests that wait for an answer, oldest first."""
        life, _ = await self._allow(principal, session_id)
        session = self._lives.session(life)
        return session.permissions.events if session else ()

    async def reader(
        self, principal: Principal, session_id: str, *, after: int = 0, turn_id: str | None = None
    ) -> Reader:
        """Return a cursor that starts behind ``after``, over one turn or the whole session.

        Raises `NotFound` (also ``turn_not_found``) or `InvalidRequest` (``after_too_large``).
        """
        life, record = await self._allow(principal, session_id)
        return await open_reader(self._lives.feed(life, record), after, turn_id)

    async def resume(
        self, principal: Principal, session_id: str, last_seq: int, *, turn_id: str | None = None
    ) -> Reader | None:
        """Return a cursor that starts behind ``last_seq``, over the turn of that event (if it has none, ``turn_id``).

        Return None if nothing of the turn is left to send. Raises as `reader`.
        """
        life, record = await self._allow(principal, session_id)
        return await resume_reader(self._lives.feed(life, record), last_seq, turn_id)

    async def history(
        self, principal: Principal, session_id: str, *, after: int, limit: int
    ) -> tuple[Sequence[Event], bool]:
        """Return at most ``limit`` events behind ``after``, and whether more follow; a gap event marks deleted ones."""
        life, record = await self._allow(principal, session_id)
        return await read_page(self._lives.feed(life, record), after, limit)

    # Helpers.

    async def _allow(self, principal: Principal, session_id: str) -> tuple[Life, SessionRecord]:
        """Return the session that has this id now, if the caller may use it. Raises `SessionNotFound`."""
        life = self._lives.of(session_id)
        try:
            record = await self._lives.record(life)
        except SessionGone:  # it was purged before its owner was known
            raise SessionNotFound(session_id) from None
        if record is None or session_id in self._creation.unborn:
            raise SessionNotFound(session_id)
        if principal.bound_to not in (None, record.agent_id):
            raise SessionGone(session_id)
        if not principal.may_see(record.owner):
            self.audit.note("session.access", SessionNotFound.code, principal, session_id=session_id)
            raise SessionNotFound(session_id)
        return life, record

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


def _refuse_closed(record: SessionRecord) -> SessionRecord:
    if record.state is State.CLOSED:
        raise Conflict("the session is closed", code="session_closed")
    return record


def _refuse_bound(principal: Principal) -> None:
    if principal.bound_to is not None:
        raise NotAllowed("this is bound to one session, and asks for something else")
