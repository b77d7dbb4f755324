"""The engine's calls about whole sessions: create, look at, change, close."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio

from portico.core.agent import require
from portico.core.audit import noting
from portico.core.errors import Unavailable
from portico.core.life import Life
from portico.core.principal import Principal
from portico.core.reception import Reception, refuse_bound, refuse_closed
from portico.core.requests import NewFork, NewSession, SessionChanges, SessionView, session_view
from portico.core.starter import stored
from portico.core.state import State

CLOSE_SECONDS = 15.0
"""The time that the agent of a session that is closed may take to end."""


class SessionCalls(Reception):
    """The calls about whole sessions. See `Engine`."""

    async def create(self, principal: Principal, request: NewSession) -> SessionView:
        """Open a session. Its agent starts with its first turn, unless the pool has one ready.

        Raises `Unavailable` (``draining``, or the reason why no agent can be started), `Conflict` (``session_exists``),
        `Exhausted` (``too_many_sessions``), `NotAllowed`, `InvalidRequest`.
        """
        with noting(self.audit, "session.create", principal, session_id=request.session_id) as about:
            self._refuse_while_draining()
            refuse_bound(principal)
            view = (await self._creation.create(principal, request)).view()
            about["session_id"] = view["session_id"]
        return view

    async def fork(self, principal: Principal, session_id: str, request: NewFork) -> SessionView:
        """Open a session with the history of another one, which stays as it is.

        Raises as `create`, and `NotFound` (``turn_not_found``), `Conflict` (``turn_not_over``, ``not_forkable``,
        ``not_supported``), `TooLarge` (``workspace_too_large``).
        """
        with noting(self.audit, "session.fork", principal, session_id=session_id, turn_id=request.turn_id) as about:
            self._refuse_while_draining()
            refuse_bound(principal)
            life, record = await self._allow(principal, session_id)
            require(self._drivers.of(record), "fork")
            view = (await self._creation.fork(principal, life, record, request)).view()
            about["fork"] = view["session_id"]
        return view

    async def sessions(
        self, principal: Principal, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[SessionView], str | None]:
        """Return a page of the caller's sessions (all sessions for an admin), newest first, and the next cursor."""
        refuse_bound(principal)
        owner = None if principal.admin else principal.name
        records, following = await self._store.list(owner=owner, state=state, limit=limit, cursor=cursor)
        unborn = self._creation.unborn
        return [self._view(record) for record in records if record.session_id not in unborn], following

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
        refuse_closed(record)
        return record.agent_id

    async def change(self, principal: Principal, session_id: str, changes: SessionChanges) -> SessionView:
        """Change a session; a change for its agent takes effect with the next turn.

        Raises `Conflict` (``session_closed``, ``not_supported``), `NotAllowed` or `NotFound` (``rule_not_found``).
        """
        with noting(self.audit, "session.change", principal, session_id=session_id):
            life, record = await self._allow(principal, session_id)
            refuse_closed(record)
            driver = self._drivers.of(record)
            for ability in changes.abilities:
                require(driver, ability)
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
            record = changes.apply(refuse_closed(before))
            feed = self._lives.feed(life, record)
            await feed.append(changes.drafts(before, record), record)
            if (session := self._lives.session(life)) is None:
                return session_view(record, last_seq=feed.last_seq)
        refuse_closed(session.record)
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
                with anyio.move_on_after(CLOSE_SECONDS) as waiting:
                    await session.closed()
                if waiting.cancelled_caught:
                    raise Unavailable("the agent is still stopping; try again", code="still_stopping")
            if purge:
                life.check()
                with anyio.CancelScope(shield=True):
                    await self._lives.forget(life)
                    await self._folders.drop(record.agent_id, Path(record.cwd) if record.own_workspace else None)
