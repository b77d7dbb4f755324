"""The engine's calls about turns: start, withdraw, interrupt, and answer what they ask."""

from __future__ import annotations

from collections.abc import Mapping

from portico.core.agent import Decision, require
from portico.core.audit import noting
from portico.core.errors import Conflict, NotAllowed, NotFound
from portico.core.principal import Principal
from portico.core.questions import fitting
from portico.core.reception import Reception
from portico.core.requests import NewTurn, TurnView
from portico.core.suggestions import open_folders


class TurnCalls(Reception):
    """The calls about turns. See `Engine`."""

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
            return TurnView(request.turn_id, session_id, "complete", span.first_seq, False, span.last_seq)

        def admit() -> None:
            if self._lives.session(life) is None or not request.turn_id:
                self._refuse_while_draining()

        return await self._reach(
            life, lambda session: session.accept(principal, request, self._rate, draining=self.draining), admit
        )

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
        """Answer a permission request. Raises as `Permissions.resolve`, `questions.fitting` and `answers.judge`."""
        action, remember = f"permission.{decision.behavior}", True if decision.remember else None
        with noting(self.audit, action, principal, session_id=session_id, request_id=request_id, remember=remember):
            life, record = await self._allow(principal, session_id)
            require(self._drivers.of(record), "permissions")
            if principal.by_ticket and (decision.remember or decision.permission_mode is not None):
                raise NotAllowed("with a ticket nothing can be remembered, and no mode chosen")
            if (session := self._lives.session(life)) is None:
                raise NotFound(f"there is no permission request {request_id!r}", code="request_not_found")
            folders: Mapping[str, str] = {}
            if (request := session.permissions.request(request_id)) is not None:
                decision = await fitting(decision, request)
                if decision.remember:
                    folders = await open_folders(request.get("suggestions"), record.cwd, self._folders)
            await session.answer(principal, request_id, decision, folders)
