"""Tests of what agents can do beside turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from portico.core.abilities import AgentAbilities, CommandInfo, ContextUse, DriverAbilities, McpServer, ModelInfo
from portico.core.agent import Agent, Turn
from portico.testing.driver.driver_harness import DriverHarness, Stage
from portico.testing.driver.outcomes import text_of, unraised
from portico.testing.following import bounded

SHAPES: Mapping[str, TypeAdapter[Any]] = {
    "context": TypeAdapter(ContextUse),
    "commands": TypeAdapter(list[CommandInfo]),
    "mcp": TypeAdapter(list[McpServer]),
    "models": TypeAdapter(list[ModelInfo]),
}


class AbilityTests(DriverHarness):
    """Tests of what agents can do beside turns."""

    async def test_it_tells_of_itself_in_the_known_shapes(self, stage: Stage) -> None:
        """An agent tells of its context, commands, MCP servers and models: at first, and while a turn runs."""
        abilities = sorted(SHAPES.keys() & stage.driver.capabilities)
        if not abilities:
            return
        async with self.agent(stage) as agent:
            for ability in abilities:
                await self._tells(agent, ability)
            async with self.running(agent, self.endless()) as turn:
                await turn.first()
                for ability in abilities:
                    await self._tells(agent, ability)

    async def test_a_fork_works_and_knows_what_the_first_one_did(self, stage: Stage) -> None:
        """An agent that is started for the spec of a fork knows the turns up to the one named, and no other."""
        if "fork" not in stage.driver.capabilities:
            return
        source, spec, known, unknown = stage.spec(), stage.spec(), "remember the heron", "remember the otter"
        async with self.agent(stage, source) as agent:
            for turn_id, text in (("known", known), ("unknown", unknown)):
                await self.turn(agent, Turn(turn_id, self.says(text)))
        with bounded(self.turn_seconds, "fork()"), unraised("fork()"):
            await cast(DriverAbilities, stage.driver).fork(source, spec, ["known"], 0)
        async with self.agent(stage, spec) as agent:
            await self.works_on(agent, "a fork")
            if (recalls := self.recalls(known)) is not None:
                events = await self.turn(agent, recalls)
                assert self.recalled(known, events), f"a fork does not remember {known!r}, but says {text_of(events)!r}"
            if (recalls := self.recalls(unknown)) is not None:
                events = await self.turn(agent, recalls)
                assert not self.recalled(unknown, events), f"a fork remembers {unknown!r}, which came later"

    async def test_a_task_in_the_background_is_told_and_stopped(self, stage: Stage) -> None:
        """A task is told in its turn; stop_task() ends it, and that is told between two turns."""
        works = self.works_behind()
        if "stop_task" not in stage.driver.capabilities or works is None:
            return
        async with self.agent(stage) as agent:
            tasks = [event for event in await self.turn(agent, works) if event["type"] == "task"]
            assert [task["state"] for task in tasks] == ["started"], f"the turn tells of these tasks: {tasks}"
            for task_id in ("unknown", tasks[0]["task_id"]):
                with bounded(self.soon_seconds, "stop_task()"), unraised("stop_task()"):
                    await cast(AgentAbilities, agent).stop_task(task_id)
            with bounded(self.soon_seconds, "the end of a task"):
                said = await agent.watch()
            told = isinstance(said, dict) and said["type"] == "task" and (said["task_id"], said["state"])
            assert told == (tasks[0]["task_id"], "ended"), f"a task was stopped, and watch() returned {said}"
            await self.works_on(agent, "the end of a task")

    async def _tells(self, agent: Agent, ability: str) -> None:
        with bounded(self.soon_seconds, f"{ability}()"), unraised(f"{ability}()"):
            told = await getattr(agent, ability)()
        try:
            SHAPES[ability].validate_python(told)
        except ValidationError as error:
            raise AssertionError(f"{ability}() returns what is none: {error}") from None
