"""Tests of requests for permission."""

from __future__ import annotations

from portico.core.agent import Agent, Decision
from portico.core.errors import PorticoError
from portico.testing.driver.driver_harness import DriverHarness, Stage
from portico.testing.driver.outcomes import ended


class PermissionTests(DriverHarness):
    """Tests of requests for permission."""

    async def test_what_is_allowed_is_done(self, stage: Stage) -> None:
        """An action is done once it is allowed, and not before."""
        spec, asks = self._asking(stage)
        async with self.agent(stage, spec) as agent, self.running(agent, asks) as turn:
            request_id = await turn.asked()
            assert not self.took_effect(spec, turn.events), "it was done before anybody has answered"
            await self.answer(agent, request_id, Decision("allow"))
            events = await turn.end()
            assert self.took_effect(spec, events), "it was allowed, and not done"
            ended(events)

    async def test_what_is_denied_is_not_done(self, stage: Stage) -> None:
        """A denied action is not done, and the turn goes on to its end."""
        spec, asks = self._asking(stage)
        async with self.agent(stage, spec) as agent:
            async with self.running(agent, asks) as turn:
                request_id = await turn.asked()
                await self.answer(agent, request_id, Decision("deny", message="Rather not."))
                events = await turn.end()
                assert not self.took_effect(spec, events), "it was denied, and done"
                ended(events)
            await self.works_on(agent, "a denial")

    async def test_a_second_answer_is_harmless(self, stage: Stage) -> None:
        """A second answer to a permission request changes nothing; it may raise an error of Portico's."""
        spec, asks = self._asking(stage)
        async with self.agent(stage, spec) as agent:
            async with self.running(agent, asks) as turn:
                request_id = await turn.asked()
                await self.answer(agent, request_id, Decision("allow"))
                await self._answer_in_vain(agent, request_id)
                events = await turn.end()
                assert self.took_effect(spec, events), "it was allowed, then denied, and was not done"
            await self._answer_in_vain(agent, request_id)
            await self._answer_in_vain(agent, "no-such-request")
            await self.works_on(agent, "a second answer")

    async def test_who_asks_can_be_interrupted(self, stage: Stage) -> None:
        """A turn that waits for an answer can be interrupted; what it asked for is not done."""
        spec, asks = self._asking(stage)
        stage.needs("interrupt")
        async with self.agent(stage, spec) as agent:
            async with self.running(agent, asks) as turn:
                request_id = await turn.asked()
                await self._interrupted(agent, turn)
                assert not self.took_effect(spec, turn.events), "it was done, and nobody has answered"
            await self._answer_in_vain(agent, request_id)
            await self.works_on(agent, "an interrupt of what was asking")

    async def _answer_in_vain(self, agent: Agent, request_id: str) -> None:
        try:
            await self.answer(agent, request_id, Decision("deny", message="Too late."))
        except PorticoError:
            return
        except Exception as failure:
            raise AssertionError(f"an answer that nobody waits for raised {failure!r}") from failure
