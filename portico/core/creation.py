"""The creation of sessions, completely or not at all."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio

from portico.core.agent import AgentDriver, AgentOptions, AgentSpec, require
from portico.core.clock import rfc3339
from portico.core.drivers import Drivers
from portico.core.errors import Conflict, StoreFailed
from portico.core.events import Draft, SessionChange
from portico.core.folders import Folders
from portico.core.fork_history import copy_history, find_fork_point
from portico.core.guard import GuardedDriver
from portico.core.life import Life
from portico.core.lives import Lives
from portico.core.policy import Policy
from portico.core.pool import Pool, Pooled
from portico.core.principal import Principal
from portico.core.requests import NewFork, NewSession
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
        driver = self._drivers.named(request.driver)
        options = self._policy.options(request, self._default_model)
        for capability in request.needs:
            require(driver, capability)
        async with self._reserved(principal, request.session_id, driver) as life:
            return await self._create(principal, life, driver, options, request)

    @asynccontextmanager
    async def _reserved(self, principal: Principal, session_id: str | None, driver: AgentDriver) -> AsyncIterator[Life]:
        """Reserve the id, or a new one, inside the block, which is not cancelled. Raises as `Engine.create`."""
        session_id = session_id or uuid.uuid4().hex
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
                yield life
        finally:
            opening.pop(session_id, None)
            self.unborn.discard(session_id)

    async def fork(self, principal: Principal, source: Life, record: SessionRecord, request: NewFork) -> Session:
        """Do as `Engine.fork`, and return the live session. ``record`` is that of ``source``."""
        driver = self._drivers.of(record)
        point = await find_fork_point(source, request.turn_id)
        async with self._reserved(principal, request.session_id, driver) as life:
            agent_id, own = str(uuid.uuid4()), request.workspace == "copy"
            cwd = await self._folders.workspace(agent_id) if own else Path(record.cwd)
            now = rfc3339()
            new = replace(
                record,
                session_id=life.session_id,
                agent_id=agent_id,
                owner=principal.name,
                state=State.CLOSED,  # until it is whole
                cwd=str(cwd),
                own_workspace=own,
                options=record.options.with_changes(permission_rules=()),  # they were allowed for that folder
                created_at=now,
                last_active_at=now,
                title=request.title or record.title,
                metadata=record.metadata if request.metadata is None else request.metadata,
                turns=len(point.turns),
                usage={},
                usage_by_model={},
                cost_usd=0.0,
                cost_basis="reported",
                tasks=(),
                schedules=(),
            )
            stored = False
            try:
                await self._folders.check(self._spec(record))  # what no agent may work in is not copied either
                await self._store.create(new)  # first: what a killed server leaves of a copy can be purged
                stored = True
                if own:
                    await self._folders.copy(Path(record.cwd), cwd)
                await self._folders.check(self._spec(new))
                await cast(GuardedDriver, driver).fork(self._spec(record), self._spec(new), point)
                last_seq = await copy_history(source, point, life)
                new = replace(new, state=State.IDLE, last_seq=last_seq)
                forked = SessionChange(type="session", state=State.IDLE, reason="forked", forked_from=record.session_id)
                feed = self._lives.new_feed(life, last_seq)
                await feed.append([Draft(forked)], new)
            except BaseException as error:
                await self._undo_create(life, new, None, stored)
                if isinstance(error, Conflict) and error.code == "session_exists":
                    raise _taken(life.session_id) from None
                raise
            return self._starter.start(life, replace(new, last_seq=feed.last_seq))

    def _spec(self, record: SessionRecord) -> AgentSpec:
        folder = self._folders.agent(record.agent_id)
        return AgentSpec(record.agent_id, folder, Path(record.cwd), record.options, record.owner)

    async def _create(
        self, principal: Principal, life: Life, driver: AgentDriver, options: AgentOptions, request: NewSession
    ) -> Session:
        pooled: Pooled | None = None
        if request.add_dirs:
            added = [str(await self._folders.given(name, "add_dirs")) for name in request.add_dirs]
            options = options.with_changes(add_dirs=tuple(dict.fromkeys(added)))
        if request.cwd is not None:
            agent_id, cwd = str(uuid.uuid4()), await self._folders.given(request.cwd)
        elif (
            self.pool is not None and driver.name == self._drivers.default_name and (pooled := self.pool.claim(options))
        ):
            agent_id, cwd = pooled.spec.agent_id, pooled.spec.cwd
        else:
            agent_id = str(uuid.uuid4())
            cwd = await self._folders.workspace(agent_id)
        if request.cwd is not None or request.add_dirs:
            options = options.with_changes(git_dirs=await self._folders.git_dirs((str(cwd), *options.add_dirs)))
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
