"""The creation of sessions, completely or not at all."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import anyio

from portico.core.agent import AgentDriver, AgentOptions
from portico.core.clock import rfc3339
from portico.core.drivers import Drivers
from portico.core.errors import Conflict, StoreFailed
from portico.core.events import Draft, SessionChange
from portico.core.folders import Folders
from portico.core.life import Life
from portico.core.lives import Lives
from portico.core.policy import Policy
from portico.core.pool import Pool, Pooled
from portico.core.principal import Principal
from portico.core.requests import NewSession
from portico.core.session import Session
from portico.core.slots import ProcessSlots
from portico.core.starter import SessionStarter
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord


class SessionCreation:
    """The creation of sessions. ``unborn`` has new sessions not fully stored yet; ``pool``, agents started ahead."""

    def __init__(
        self,
        store: EventStore,
        lives: Lives,
        drivers: Drivers,
        starter: SessionStarter,
        policy: Policy,
        *,
        default_model: str | None,
        slots: ProcessSlots,
        folders: Folders,
    ) -> None:
        self.pool: Pool | None = None
        self.unborn: set[str] = set()
        self._store = store
        self._lives = lives
        self._drivers = drivers
        self._starter = starter
        self._policy = policy
        self._default_model = default_model
        self._slots = slots
        self._folders = folders

    async def create(self, principal: Principal, request: NewSession) -> Session:
        """Do as `Engine.create`, and return the live session."""
        session_id = request.session_id or uuid.uuid4().hex
        driver = self._drivers.named(request.driver)
        options = self._policy.options(request, self._default_model)
        opening = self._starter.opening
        if session_id in opening:
            raise _taken(session_id)
        self._starter.refuse_too_many(principal.name)
        opening[session_id] = principal.name
        try:
            taken = await self._store.get(session_id) is not None
            life = self._lives.of(session_id)  # only now: a session purged meanwhile had another life
            if taken or life.over:
                raise _taken(session_id)
            await self._drivers.check(driver.name)
            self.unborn.add(session_id)
            with anyio.CancelScope(shield=True):
                session = await self._create(principal, life, driver, options, request)
        finally:
            opening.pop(session_id, None)
            self.unborn.discard(session_id)
        return session

    async def _create(
        self, principal: Principal, life: Life, driver: AgentDriver, options: AgentOptions, request: NewSession
    ) -> Session:
        pooled: Pooled | None = None
        if request.cwd is not None:
            agent_id, cwd = str(uuid.uuid4()), await self._folders.given(request.cwd)
        elif (
            self.pool is not None and driver.name == self._drivers.default_name and (pooled := self.pool.claim(options))
        ):
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
            budget_usd=request.budget_usd,
        )
        feed = self._lives.new_feed(life)
        stored = False
        try:
            await self._store.create(record)
            stored = True
            await feed.append([Draft(SessionChange(type="session", state=State.IDLE, reason="created"))], record)
        except BaseException as error:
            await self._undo_create(life, record, pooled, stored)
            if isinstance(error, Conflict):  # the store's own words may reveal more of the existing session
                raise _taken(life.session_id) from None
            raise
        return self._starter.start(life, record, pooled)

    async def _undo_create(self, life: Life, record: SessionRecord, pooled: Pooled | None, stored: bool) -> None:
        self._lives.drop_feed(life)
        if pooled is not None:
            await pooled.agent.close()
            self._slots.give_back()
        await self._folders.drop(record.agent_id, Path(record.cwd) if record.own_workspace else None)
        if stored:
            with suppress(StoreFailed):
                await self._lives.forget(life)


def _taken(session_id: str) -> Conflict:
    """Return an error that says only that the id is taken, because the session may be another owner's."""
    return Conflict(f"session {session_id!r} exists already", code="session_exists")
