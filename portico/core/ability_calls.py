"""The engine's calls about the abilities of agents beside turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from portico.core.abilities import CommandInfo, ContextUse, McpServer, ModelInfo, Rewind
from portico.core.agent import require
from portico.core.audit import noting
from portico.core.errors import NotFound, Unavailable
from portico.core.principal import Principal
from portico.core.reception import Reception, refuse_bound
from portico.core.requests import NewSession
from portico.core.session import Session

T = TypeVar("T")


class AbilityCalls(Reception):
    """The calls that a session passes on to its agent. See `Engine`.

    All raise `Conflict` (``not_supported``, ``session_closed``), `Unavailable` (``agent_busy``, ``agent_unavailable``,
    ``draining``) or `Exhausted` (``too_many_calls``). An agent is started for them if the session has none; a dormant
    session is opened again as by a query.
    """

    async def context(self, principal: Principal, session_id: str) -> ContextUse:
        return cast(ContextUse, await self._call(principal, session_id, "context"))

    async def commands(self, principal: Principal, session_id: str) -> Sequence[CommandInfo]:
        return cast(Sequence[CommandInfo], await self._call(principal, session_id, "commands"))

    async def mcp(self, principal: Principal, session_id: str) -> Sequence[McpServer]:
        return cast(Sequence[McpServer], await self._call(principal, session_id, "mcp"))

    async def rewind(self, principal: Principal, session_id: str, turn_id: str, *, dry_run: bool = False) -> Rewind:
        """Set the files that the agent has changed since this turn began back; with ``dry_run`` only say which.

        Raises also `NotFound` (``turn_not_found``) and `Conflict` (``busy``, ``no_checkpoint``).
        """
        with noting(self.audit, "session.rewind", principal, session_id=session_id, turn_id=turn_id) as about:
            if dry_run:
                about.clear()
            life, _ = await self._allow(principal, session_id)
            if await life.turn(turn_id) is None:
                raise NotFound(f"there is no turn {turn_id!r}", code="turn_not_found")
            return await self._pass(principal, session_id, "rewind", lambda session: session.rewind(turn_id, dry_run))

    async def models(self, principal: Principal, driver: str | None = None) -> tuple[str, Sequence[ModelInfo]]:
        """Return the driver's name (None: the default), and the models that sessions of it may use.

        Raises also `InvalidRequest` (``unknown_driver``).
        """
        refuse_bound(principal)
        found = self._drivers.named(driver)
        require(found, "models")
        self._refuse_while_draining()
        if self._starter.tasks is None:
            raise Unavailable("the engine is not running", code="not_running")
        options = self._policy.options(NewSession(), self._default_model)
        return found.name, await self._models.of(found, options, self._starter.tasks)

    async def _call(self, principal: Principal, session_id: str, ability: str, **arguments: Any) -> Any:
        """Have the session call its agent's method ``ability``."""
        return await self._pass(principal, session_id, ability, lambda session: session.call(ability, arguments))

    async def _pass(
        self, principal: Principal, session_id: str, ability: str, act: Callable[[Session], Awaitable[T]]
    ) -> T:
        """Return what ``act`` does with the session, whose agent must have the ability."""
        life, record = await self._allow(principal, session_id)
        require(self._drivers.of(record), ability)
        self._refuse_while_draining()
        return await self._reach(life, act)
