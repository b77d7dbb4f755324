"""Tests of interrupts, and of messages for a running turn."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import anyio
import anyio.lowlevel

from portico.core.agent import Agent, Turn
from portico.core.errors import InvalidRequest
from portico.core.events import AgentEvent, Content
from portico.testing.driver.driver_harness import DriverHarness, Stage
from portico.testing.driver.outcomes import ended, steered_ids, text_of


class SteeringTests(DriverHarness):
    """Tests of interrupts, and of messages for a running turn."""

    # Interrupts.

    async def test_an_interrupt_ends_the_turn(self, stage: Stage) -> None:
        """An interrupted turn ends within seconds, with the stop_reason interrupted, and the next one works at once."""
        stage.needs("interrupt")
        async with self.agent(stage) as agent:
            async with self.running(agent, self.endless()) as turn:
                await turn.first()
                await self._interrupted(agent, turn)
            await self.works_on(agent, "an interrupt")

    async def test_an_interrupt_before_the_first_event_counts(self, stage: Stage) -> None:
        """A turn that has just been begun, and has no event yet, can be interrupted too."""
        stage.needs("interrupt")
        async with self.agent(stage) as agent:
            for _ in range(3):
                async with self.running(agent, self.endless()) as turn:
                    await anyio.lowlevel.checkpoint()  # as the engine: `run` has begun, and nothing is known of it
                    await self._interrupted(agent, turn)
            await self.works_on(agent, "an interrupt before the first event")

    async def test_an_interrupt_that_comes_late_changes_nothing(self, stage: Stage) -> None:
        """An interrupt that comes when the turn is over does not touch the next one."""
        stage.needs("interrupt")
        async with self.agent(stage) as agent:
            for _ in range(2):
                await self.interrupt(agent)
                await self.works_on(agent, "an interrupt of nothing")

    # Steering.

    async def test_a_message_handed_over_is_answered_once(self, stage: Stage) -> None:
        """A message handed to a running turn is taken up with a steered notice, or is the next turn; never both."""
        stage.needs("steer")
        async with self.agent(stage) as agent:
            for content in (self.says("one two three"), self.works()):
                turns = await self._steered(agent, content, self.says("handed over"))
                said = "".join(text_of(events) for events in turns)
                count = said.count("handed over")
                assert count == 1, f"the message was answered {count} times: {said!r}"
                for events in turns:
                    ended(events)
            await self.works_on(agent, "steering")

    async def test_a_message_for_an_interrupted_turn_is_the_next(self, stage: Stage) -> None:
        """A message handed to a turn that is interrupted before it took it up is answered by the turn run next."""
        stage.needs("steer")
        stage.needs("interrupt")
        message = Turn(uuid4().hex, self.says("after it"))
        async with self.agent(stage) as agent:
            async with self.running(agent, self.endless()) as turn:
                await turn.first()
                await self.steer(agent, message)
                await self._interrupted(agent, turn)
                taken_up = message.turn_id in steered_ids(turn.events)
            if not taken_up:
                said = text_of(await self.turn(agent, message))
                assert said == "after it", f"the message that was to say 'after it' said {said!r}"
            await self.works_on(agent, "steering a turn that was interrupted")

    async def test_steering_with_what_makes_no_sense_harms_nobody(self, stage: Stage) -> None:
        """Content that makes no sense does not steer: the turn goes on, and so does the agent."""
        stage.needs("steer")
        async with self.agent(stage) as agent:
            for content in self.bad():
                turns = await self._steered(agent, self.says("one two three"), content)
                ended(turns[0])
            await self.works_on(agent, "steering with what makes no sense")

    async def _steered(self, agent: Agent, content: Content, message: Content) -> list[Sequence[AgentEvent]]:
        """Hand ``message`` to a turn at its first event, and then do with it as is agreed: the turns that were run."""
        steering = Turn(uuid4().hex, message)
        async with self.running(agent, content) as turn:
            await turn.first()
            try:
                await self.steer(agent, steering)
            except InvalidRequest:
                return [await turn.end()]
            events = await turn.end()
        if steering.turn_id in steered_ids(events):
            return [events]
        late = await self.attempt(agent, steering)
        if isinstance(late.failure, InvalidRequest):
            return [events]
        assert late.failure is None, f"the message that was not taken up raised {late.failure!r} when it was run"
        return [events, late.events]
