"""An engine that takes down what its callers change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from portico.core.agent import Decision
from portico.core.audit import OK, About, Audit
from portico.core.engine import Engine
from portico.core.errors import PorticoError, SessionGone, SessionNotFound
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges, SessionView, TurnView


class AuditedEngine(Engine):
    """Here, and not in the transports, so that whatever comes over any transport is taken down, and once.

    A known turn that is attached to changes nothing, and what is asked of a session that does not exist is not taken
    down. Whoever is after a session of somebody else's, to read or to change it, is: as ``session.access``. A change of
    a session that was purged before the change was made has its line, with the outcome ``session_not_found``.
    """

    def __init__(self, *, audit: Audit, **parts: Any) -> None:
        super().__init__(**parts)
        self.audit = audit

    async def create(self, principal: Principal, request: NewSession) -> SessionView:
        with self._noting("session.create", principal, session_id=request.session_id) as about:
            session = await super().create(principal, request)
            about["session_id"] = session["session_id"]
        return session

    async def change(self, principal: Principal, session_id: str, changes: SessionChanges) -> SessionView:
        with self._noting("session.change", principal, session_id=session_id):
            return await super().change(principal, session_id, changes)

    async def close(self, principal: Principal, session_id: str, *, purge: bool = False) -> None:
        with self._noting("session.purge" if purge else "session.close", principal, session_id=session_id):
            await super().close(principal, session_id, purge=purge)

    async def query(self, principal: Principal, session_id: str, request: NewTurn) -> TurnView:
        with self._noting("turn.query", principal, session_id=session_id, turn_id=request.turn_id) as about:
            turn = await super().query(principal, session_id, request)
            about["turn_id"] = turn.turn_id
            if not turn.created:
                about.clear()
        return turn

    async def withdraw(self, principal: Principal, session_id: str, turn_id: str) -> None:
        with self._noting("turn.withdraw", principal, session_id=session_id, turn_id=turn_id):
            await super().withdraw(principal, session_id, turn_id)

    async def interrupt(self, principal: Principal, session_id: str) -> None:
        with self._noting("turn.interrupt", principal, session_id=session_id):
            await super().interrupt(principal, session_id)

    async def answer(self, principal: Principal, session_id: str, request_id: str, decision: Decision) -> None:
        action, remember = f"permission.{decision.behavior}", True if decision.remember else None
        with self._noting(action, principal, session_id=session_id, request_id=request_id, remember=remember):
            await super().answer(principal, session_id, request_id, decision)

    def _note_stranger(self, principal: Principal, session_id: str) -> None:
        self.audit.note("session.access", SessionNotFound.code, principal, session_id=session_id)

    @contextmanager
    def _noting(self, action: str, principal: Principal, **about: About) -> Iterator[dict[str, About]]:
        """Take ``action`` down, unless what it is ``about`` is cleared."""
        outcome = "abandoned"  # the caller left before it had an answer: it may have happened, or not
        try:
            yield about
            outcome = OK
        except SessionNotFound as error:
            outcome = error.code
            if not isinstance(error, SessionGone):  # there was nothing to change, or `_note_stranger` was called
                about.clear()
            raise
        except PorticoError as error:
            outcome = error.code
            raise
        except Exception:
            outcome = PorticoError.code
            raise
        finally:
            if about:
                self.audit.note(action, outcome, principal, None, **about)
