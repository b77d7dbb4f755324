"""The watch over an agent between two turns."""

from __future__ import annotations

import anyio

from portico.core.agent import OwnTurn
from portico.core.errors import AgentFailed, AgentUnavailable
from portico.core.events import Aside
from portico.core.seat import Seat
from portico.core.state import Wishes
from portico.core.wakeup import Wakeup


class AgentWatch:
    """The watch of one session over its agent: whatever the agent does between two turns becomes a wish."""

    def __init__(self, seat: Seat, wishes: Wishes, wakeup: Wakeup) -> None:
        self._seat = seat
        self._wishes = wishes
        self._wakeup = wakeup
        self._aside: Aside | None = None

    def take_aside(self) -> Aside | None:
        """Return the event that the wish ``aside`` means."""
        aside, self._aside = self._aside, None
        return aside

    async def wait(self) -> None:
        """Wait until somebody wakes the session, or the agent does something by itself."""
        agent = self._seat.agent
        if agent is None:
            await self._wakeup.wait()
            return
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                try:
                    said = await agent.watch()
                    if isinstance(said, OwnTurn):
                        self._wishes.own_turn = said.content
                    else:
                        self._aside, self._wishes.aside = said, True
                except (AgentFailed, AgentUnavailable) as failure:
                    self._wishes.agent_exit = failure.detail
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._wakeup.wait()
            tasks.cancel_scope.cancel()
