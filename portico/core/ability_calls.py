"""The engine's calls about the abilities of agents beside turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from portico.core.abilities import CommandInfo, ContextUse, McpServer
from portico.core.agent import require
from portico.core.principal import Principal
from portico.core.reception import Reception
from portico.core.turn_intake import Retired


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

    async def _call(
        self, principal: Principal, session_id: str, ability: str, *, alone: bool = False, **arguments: Any
    ) -> Any:
        """Have the session call its agent's method ``ability``, ``alone``: between two turns."""
        life, record = await self._allow(principal, session_id)
        require(self._drivers.of(record), ability)
        self._refuse_while_draining()
        while True:
            session = await self._starter.open(life)
            try:
                return await session.call(ability, arguments, alone=alone)
            except Retired:
                await session.finished.wait()
