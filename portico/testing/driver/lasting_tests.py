"""Tests of agents that come back, become others, or change."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import Agent, AgentOptions, AgentSpec, Decision
from portico.core.events import Content
from portico.testing.driver.driver_harness import DriverHarness, Stage
from portico.testing.driver.outcomes import text_of, unraised
from portico.testing.following import bounded


class LastingTests(DriverHarness):
    """Tests of agents that come back, become others, or change."""

    async def test_an_agent_comes_back_with_its_context(self, stage: Stage) -> None:
        """An agent that is started again with the same spec goes on where it was closed."""
        stage.needs("resume")
        spec, text = stage.spec(), "remember the heron"
        for _ in range(2):
            async with self.agent(stage, spec) as agent:
                await self.works_on(agent, "a start with the same spec")
                await self.turn(agent, self.says(text))
        if (recalls := self.recalls(text)) is None:
            return
        async with self.agent(stage, spec) as agent:
            events = await self.turn(agent, recalls)
            assert self.recalled(text, events), f"it does not remember {text!r}, but says {text_of(events)!r}"

    async def test_an_agent_without_a_turn_comes_back(self, stage: Stage) -> None:
        """An agent that was closed before its first turn can be started again."""
        stage.needs("resume")
        spec = stage.spec()
        async with self.agent(stage, spec):
            pass
        async with self.agent(stage, spec) as agent:
            await self.works_on(agent, "a close without a turn")

    async def test_an_agent_started_ahead_becomes_another(self, stage: Stage) -> None:
        """An agent that was started for fixed(options) and nobody can be claimed for options and an owner."""
        stage.needs("claim")
        shows_model, asks = self.shows_model(), self.asks()
        options = AgentOptions(
            model=None if shows_model is None else self.other_model,
            permission_mode=self.permissive_mode or "default",
            system_prompt="You are brief.",
            append_system_prompt="You are kind.",
        )
        wanted = replace(stage.spec(options), owner="alice")
        ahead = replace(wanted, options=stage.driver.fixed(options), owner=None)
        async with self.agent(stage, ahead) as agent:
            with anyio.move_on_after(0.02):  # as the pool does
                await agent.watch()
            with bounded(self.soon_seconds, "claim()"), unraised("claim()"):
                await agent.claim(wanted)
            await self.works_on(agent, "a claim")
            if shows_model is not None:
                model = self.model_of(await self.turn(agent, shows_model))
                assert model == self.other_model, f"it was claimed for {self.other_model}, and answers with {model}"
            if asks is not None and self.permissive_mode is not None:
                await self._does_not_ask(agent, wanted, asks, f"in the mode {self.permissive_mode}")

    async def test_a_change_of_model_holds_from_the_next_turn_on(self, stage: Stage) -> None:
        """After configure() all turns are answered with the model that it names, until the next configure()."""
        stage.needs("set_model")
        shows = self.shows_model()
        spec = stage.spec()
        async with self.agent(stage, spec) as agent:
            before = self.model_of(await self.turn(agent, shows)) if shows is not None else None
            for model, expected in ((self.other_model, self.other_model), (None, before)):
                await self.configure(agent, spec.options.with_changes(model=model))
                for _ in range(2):
                    await self.works_on(agent, "a change of model")
                    if shows is not None:
                        used = self.model_of(await self.turn(agent, shows))
                        assert used == expected, f"after configure(model={model!r}) the answer is from {used!r}"

    async def test_a_change_of_mode_holds_from_the_next_turn_on(self, stage: Stage) -> None:
        """After configure() the permission mode that it names holds, until the next configure()."""
        stage.needs("set_permission_mode")
        spec, asks = self._asking(stage)
        if self.permissive_mode is None:
            pytest.skip("permissive_mode names no mode in which nobody is asked")
        async with self.agent(stage, spec) as agent:
            for mode in (self.permissive_mode, "default"):
                await self.configure(agent, spec.options.with_changes(permission_mode=mode))
                if mode == self.permissive_mode:
                    await self._does_not_ask(agent, spec, asks, f"in the mode {mode}")
                else:
                    await self._asks_again(agent, asks)

    async def test_a_permission_rule_holds_until_it_is_taken_back(self, stage: Stage) -> None:
        """The permission rules are those of start(), until configure() names others, in the next process too."""
        if "permission_rules" not in stage.driver.capabilities:
            return
        spec, asks = self._asking(stage)
        if self.permission_rule is None:
            pytest.skip("permission_rule names no rule under which nobody is asked")
        without = spec.options
        allowed = replace(spec, options=without.with_changes(permission_rules=({"id": "1", **self.permission_rule},)))
        for _ in range(2 if "resume" in stage.driver.capabilities else 1):
            async with self.agent(stage, allowed) as agent:
                await self._does_not_ask(agent, spec, asks, "with a permission rule")
                await self.configure(agent, without)
                await self._asks_again(agent, asks)
                await self.configure(agent, allowed.options)
                await self._does_not_ask(agent, spec, asks, "with a permission rule")

    async def _asks_again(self, agent: Agent, asks: Content) -> None:
        async with self.running(agent, asks) as turn:
            request_id = await turn.asked()
            await self.answer(agent, request_id, Decision("deny"))
            await turn.end()

    async def _does_not_ask(self, agent: Agent, spec: AgentSpec, asks: Content, why: str) -> None:
        async with self.running(agent, asks) as turn:
            await turn.until(
                lambda event: event["type"] in ("permission_request", "complete"), "a request or the end of the turn"
            )
            kinds = [event["type"] for event in turn.events]
            assert "permission_request" not in kinds, f"{why} it asks for permission"
            events = await turn.end()
        assert self.took_effect(spec, events), f"{why} it was not done"
