"""Tests of the ends of agents."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from portico.core.errors import AgentFailed
from portico.testing.background import background
from portico.testing.driver.driver_harness import DriverHarness, Stage
from portico.testing.driver.outcomes import check_closed, watched
from portico.testing.following import bounded


class EndingTests(DriverHarness):
    """Tests of the ends of agents."""

    async def test_a_closed_agent_is_gone(self, stage: Stage) -> None:
        """An agent can be closed twice; after that run() and watch() raise AgentFailed, and nothing is left of it."""
        async with self.agent(stage) as agent:
            await self.works_on(agent, "the start")
            await self.close(agent)
            await self.close(agent)
            await self.gone(agent)
        await self.nothing_left(stage, "a close")

    async def test_a_close_ends_the_running_turn(self, stage: Stage) -> None:
        """An agent that is closed in mid-turn is gone within seconds, and so is its turn."""
        async with self.agent(stage) as agent:
            async with self.running(agent, self.endless()) as turn:
                await turn.first()
                await self.close(agent)
                with bounded(self.soon_seconds, "the turn of a closed agent"):
                    await turn.over.wait()
            check_closed(turn)
            await self.gone(agent)
        await self.nothing_left(stage, "a close in mid-turn")

    async def test_an_agent_can_be_closed_at_once(self, stage: Stage) -> None:
        """An agent that was started this moment can be closed, also in its first turn, and leaves nothing behind."""
        await self.close(await self.start(stage, stage.spec()))
        await self.nothing_left(stage, "a close right after the start")
        agent = await self.start(stage, stage.spec())
        async with self.running(agent, self.endless()) as turn:
            await anyio.lowlevel.checkpoint()
            await self.close(agent)
            with bounded(self.soon_seconds, "the turn of a closed agent"):
                await turn.over.wait()
        check_closed(turn)
        await self.nothing_left(stage, "a close in the first turn")

    async def test_a_cancelled_close_stops_the_agent(self, stage: Stage) -> None:
        """A close that is cancelled already, as where a server must stop at once, stops the agent all the same."""
        agent = await self.start(stage, stage.spec())
        async with self.running(agent, self.endless()) as turn:
            await turn.first()
            with bounded(self.soon_seconds, "a close() that is cancelled"):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await agent.close()
                await turn.over.wait()
        await self.nothing_left(stage, "a close that was cancelled")
        await self.gone(agent)

    async def test_a_close_wakes_who_watches(self, stage: Stage) -> None:
        """watch() may be cancelled and called again, and raises AgentFailed when the agent is closed meanwhile."""
        raised: list[Exception | None] = []

        async def watch() -> None:
            raised.append(await watched(agent))
            over.set()

        over = anyio.Event()
        agent = await self.start(stage, stage.spec())
        with anyio.move_on_after(0.02):
            await agent.watch()
        await self.works_on(agent, "a watch() that was cancelled")
        async with background() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            await self.close(agent)
            with bounded(self.soon_seconds, "watch() of a closed agent"):
                await over.wait()
        assert isinstance(raised[0], AgentFailed), f"watch() of an agent that was closed raised {raised[0]!r}"
