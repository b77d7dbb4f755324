"""Tests of requests for permission."""

from __future__ import annotations

from typing import cast

from portico.core.abilities import AgentAbilities, LateAnswer
from portico.core.agent import Agent, Decision
from portico.core.errors import PorticoError
from portico.core.events import PermissionRequest
from portico.core.questions import with_answers
from portico.testing.driver.driver_harness import DriverHarness, Stage
from portico.testing.driver.outcomes import ended
from portico.testing.following import bounded


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

    async def test_an_answer_that_comes_late_is_taken_by_the_next_agent(self, stage: Stage) -> None:
        """After part() at a question, an agent of the same id goes on: with the tool's result, to the turn's end."""
        if "late_answers" not in stage.driver.capabilities or (asks := self.asks_a_question()) is None:
            return
        spec = stage.spec()
        async with self.agent(stage, spec) as agent, self.running(agent, asks) as turn:
            found = await turn.until(lambda event: event["type"] == "permission_request", "a question")
            with bounded(self.soon_seconds, "part()"):
                used = await cast(AgentAbilities, agent).part()
        assert used["type"] == "complete", f"part() returned {used!r}"
        request = cast(PermissionRequest, found)
        answers = {request["questions"][0]["question"]: "whatever"}
        decision = with_answers(Decision("allow", answers=answers), request)
        async with self.agent(stage, spec) as agent:
            events = []
            with bounded(self.turn_seconds, "go_on()"):
                async for event in cast(AgentAbilities, agent).go_on(LateAnswer("turn", request, decision)):
                    events.append(event)
            ends = [event for event in events if event["type"] == "tool_result"]
            assert ends and ends[0]["tool_use_id"] == request.get("tool_use_id"), "what has asked has no result"
            assert ended(events)["stop_reason"] == "end_turn"
            await self.works_on(agent, "a late answer")
