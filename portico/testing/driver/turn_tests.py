"""Tests of the driver itself, and of its agents' turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import isclose
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import Agent, AgentOptions, Decision
from portico.core.errors import InvalidRequest
from portico.core.events import Content
from portico.core.usage import TOKENS
from portico.testing.background import background
from portico.testing.driver.driver_harness import CAPABILITIES, OPTIONS, WORDS, DriverHarness, Stage
from portico.testing.driver.outcomes import ended, text_of, unraised
from portico.testing.event_shapes import check_event
from portico.testing.following import bounded


class TurnTests(DriverHarness):
    """Tests of the driver itself, and of its agents' turns."""

    # The driver.

    async def test_it_has_a_name(self, stage: Stage) -> None:
        """A driver has a name: text that is not empty."""
        name: object = stage.driver.name
        assert isinstance(name, str) and name.strip(), f"its name is {name!r}"

    async def test_its_capabilities_are_known(self, stage: Stage) -> None:
        """A driver's capabilities are a frozenset of those that Portico knows."""
        capabilities: object = stage.driver.capabilities
        assert isinstance(capabilities, frozenset), f"capabilities is a {type(capabilities).__name__}"
        unknown = capabilities - CAPABILITIES
        assert not unknown, f"nobody knows {sorted(unknown)}; there are: {', '.join(sorted(CAPABILITIES))}"

    async def test_what_is_fixed_stays_fixed(self, stage: Stage) -> None:
        """fixed() of options that were fixed already changes nothing more."""
        for options in OPTIONS:
            once = stage.driver.fixed(options)
            assert stage.driver.fixed(once) == once, f"fixed(fixed(options)) is not fixed(options) for {options}"

    async def test_a_driver_that_works_says_so(self, stage: Stage) -> None:
        """check() raises nothing where agents can be started."""
        with bounded(self.turn_seconds, "check()"), unraised("check()"):
            await stage.driver.check()

    async def test_a_cancelled_start_leaves_nothing(self, stage: Stage) -> None:
        """A start that is cancelled, at whatever moment, leaves nothing behind, and the agent can be started anew."""
        spec = stage.spec()
        for seconds in (0.0, 0.003, 0.03, 0.1):
            agent: Agent | None = None
            with anyio.move_on_after(seconds), unraised("start()"):
                agent = await stage.driver.start(spec)
            if agent is not None:
                await self.close(agent)
            await self.nothing_left(stage, f"a start that was cancelled after {seconds} s")
        async with self.agent(stage, spec) as agent:
            await self.works_on(agent, "a start that was cancelled")

    async def test_a_driver_that_closes_stops_its_agents(self, stage: Stage) -> None:
        """close() of a driver stops the agents that nobody has closed."""
        driver = self.create(stage.folder)
        own = Stage(driver, stage.folder)
        agents: list[Agent] = []
        over = anyio.Event()

        async def live() -> None:  # one task, as in the engine: what has opened a driver closes it
            await driver.open()
            try:
                with suppress(Exception):
                    agents.append(await self.start(own, own.spec()))
                    await self.works_on(agents[0], "the start")
            finally:
                await driver.close()
                over.set()

        async with background() as tasks:
            tasks.start_soon(live)
            with bounded(2 * self.turn_seconds, "the life of a driver, from open() to close(),"):
                await over.wait()
        assert agents, "no agent could be started"
        await self.nothing_left(stage, "the driver's close()")
        await self.gone(agents[0])

    # Turns.

    async def test_a_turn_ends_in_one_complete(self, stage: Stage) -> None:
        """A turn yields one complete, and nothing after it."""
        async with self.agent(stage) as agent:
            for _ in range(2):
                kinds = [event["type"] for event in await self.turn(agent, self.says("one two"))]
                assert kinds.count("complete") == 1, f"a turn had {kinds.count('complete')} complete: {kinds}"
                assert kinds[-1] == "complete", f"behind its complete a turn went on: {kinds}"

    async def test_events_have_their_shapes(self, stage: Stage) -> None:
        """Every event is a dictionary of one of the shapes of portico.core.events, and can be written as JSON."""
        async with self.agent(stage) as agent:
            events = [*await self.turn(agent, self.says(WORDS))]
            if "permissions" in stage.driver.capabilities and (asks := self.asks()) is not None:
                async with self.running(agent, asks) as turn:
                    request_id = await turn.asked()
                    await self.answer(agent, request_id, Decision("allow"))
                    events += await turn.end()
            if "interrupt" in stage.driver.capabilities:
                async with self.running(agent, self.endless()) as turn:
                    await turn.first()
                    await self.interrupt(agent)
                    events += await turn.end()
        for event in events:
            check_event(event)

    async def test_an_answer_comes_whole(self, stage: Stage) -> None:
        """An answer comes as messages, which are what was streamed as deltas before, if it was."""
        async with self.agent(stage) as agent:
            events = await self.turn(agent, self.says(WORDS))
        said = text_of(events)
        assert said == WORDS, f"the messages say {said!r} for {WORDS!r}"
        streamed: dict[tuple[str | None, int | None], str] = {}
        whole: dict[tuple[str | None, int | None], str] = {}
        for event in events:
            if event["type"] == "delta":
                key = event.get("message_id"), event.get("index")
                assert key not in whole, "a delta came behind the message that it belongs to"
                streamed[key] = streamed.get(key, "") + event["content"]
            elif event["type"] == "message":
                for offset, block in enumerate(event["content"]):
                    index = event.get("index")
                    whole[event.get("message_id"), None if index is None else index + offset] = block.get("text", "")
        for key, text in streamed.items():
            assert whole.get(key) == text, f"of message and block {key} were streamed {text!r}, then {whole.get(key)!r}"

    async def test_turns_come_one_after_another(self, stage: Stage) -> None:
        """Each turn of an agent has its own answer and nothing of another's."""
        async with self.agent(stage) as agent:
            for text in ("first", "second", "third"):
                said = text_of(await self.turn(agent, self.says(text)))
                assert said == text, f"the turn that was to say {text!r} said {said!r}"

    async def test_a_query_may_be_blocks(self, stage: Stage) -> None:
        """A query that is a list of text blocks is answered like its text."""
        query = self.says("one two")
        blocks: Content = [{"type": "text", "text": query}] if isinstance(query, str) else query
        async with self.agent(stage) as agent:
            said = text_of(await self.turn(agent, blocks))
        assert said == "one two", f"text blocks were answered with {said!r} for 'one two'"

    async def test_a_query_may_have_documents(self, stage: Stage) -> None:
        """A query of a document and text blocks is answered like its text."""
        stage.needs("documents")
        source = {"type": "text", "media_type": "text/plain", "data": "A document."}
        query = self.says("one two")
        blocks: Content = [{"type": "text", "text": query}] if isinstance(query, str) else query
        async with self.agent(stage) as agent:
            said = text_of(await self.turn(agent, [{"type": "document", "source": source}, *blocks]))
        assert said == "one two", f"a document before 'one two' was answered with {said!r}"

    async def test_a_turn_returns_what_fits_the_schema(self, stage: Stage) -> None:
        """With an output schema, `Complete` has the object that the agent returns; without one, it has none."""
        stage.needs("output_schema")
        schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
        query = self.gives({"number": 7})
        if query is None:
            pytest.skip("gives() names no query that is answered with a structured output")
        async with self.agent(stage, stage.spec(AgentOptions(output_schema=schema))) as agent:
            given = ended(await self.turn(agent, query)).get("structured_output")
        assert given == {"number": 7}, f"the structured output was {given!r}, and not {{'number': 7}}"
        async with self.agent(stage) as agent:
            end = ended(await self.turn(agent, self.says("one")))
        assert "structured_output" not in end, f"a turn without a schema ended in {end!r}"

    async def test_usage_is_of_the_turn(self, stage: Stage) -> None:
        """Usage and cost are those of the turn, and no sums over the turns before."""
        async with self.agent(stage) as agent:
            ends = [ended(await self.turn(agent, self.says("one two three"))) for _ in range(4)]
        for name in ("output_tokens", "cost_usd"):
            spent = [end["cost_usd"] if name == "cost_usd" else end["usage"].get(name, 0) for end in ends]
            assert spent[3] <= 3 * spent[0], f"{name} of four like turns: {spent}"

    async def test_the_usage_by_model_adds_up(self, stage: Stage) -> None:
        """If a turn says its usage by model, the models' tokens and costs make those of the turn."""
        async with self.agent(stage) as agent:
            end = ended(await self.turn(agent, self.says("one two three")))
        models: Mapping[str, Mapping[str, Any]] | None = end.get("usage_by_model")
        if models is not None:
            for name in TOKENS:
                whole, parts = end["usage"].get(name, 0), sum(model[name] for model in models.values())
                assert whole == parts, f"{name} of the turn is {whole}, and of its models together {parts}"
            cost = sum(model["cost_usd"] for model in models.values())
            assert isclose(end["cost_usd"], cost), f"the turn cost {end['cost_usd']}, and its models together {cost}"

    async def test_what_makes_no_sense_is_refused(self, stage: Stage) -> None:
        """Content that makes no sense raises InvalidRequest or ends its turn in an error, and the next turn works."""
        async with self.agent(stage) as agent:
            for content in self.bad():
                turn = await self.attempt(agent, content)
                if isinstance(turn.failure, InvalidRequest):
                    continue
                assert turn.failure is None, f"{content!r} raised {turn.failure!r}, and not InvalidRequest"
                stop_reason = ended(turn.events)["stop_reason"]
                assert stop_reason == "error", f"{content!r} ended its turn with {stop_reason}"
            await self.works_on(agent, "queries that make no sense")

    async def test_two_agents_do_not_mix(self, stage: Stage) -> None:
        """Of two agents at once each answers its own queries."""
        async with self.agent(stage) as one, self.agent(stage) as other:
            for n in range(2):
                text, text2 = f"one {n} a b c d e f", f"other {n} a b c d e f"
                async with self.running(one, self.says(text)) as turn, self.running(other, self.says(text2)) as turn2:
                    said = text_of(await turn.end()), text_of(await turn2.end())
                assert said == (text, text2), f"two agents that were to say {(text, text2)} said {said}"
