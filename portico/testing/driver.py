"""What every driver has to do, as a class of tests.

class TestMyDriver(DriverConformance):
    def create(self, folder: Path) -> AgentDriver:
        return MyDriver(folder / "agents")

    def says(self, text: str) -> Content:
        return f"Say exactly this: {text}"

    def endless(self) -> Content:
        return "Count, and never stop."
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import Agent, AgentDriver, AgentOptions, AgentSpec, Decision, Turn
from portico.core.errors import AgentFailed, InvalidRequest, PorticoError
from portico.core.events import AgentEvent, Complete, Content
from portico.testing.background import background
from portico.testing.following import Following, bounded, following
from portico.testing.shapes import check_event

CAPABILITIES = frozenset({"interrupt", "steer", "permissions", "resume", "claim", "set_model", "set_permission_mode"})

WORDS = "two words,\n  and more: \N{LATIN SMALL LETTER A WITH DIAERESIS}\N{GRINNING FACE}"

OPTIONS: tuple[AgentOptions, ...] = (
    AgentOptions(),
    AgentOptions(
        model="m",
        permission_mode="plan",
        system_prompt="p",
        append_system_prompt="q",
        allowed_tools=("Read",),
        disallowed_tools=("Write",),
        mcp_servers={"x": {"command": "y"}},
        max_turns=3,
        setting_sources=("user",),
    ),
    AgentOptions(permission_mode="bypassPermissions"),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """An open driver, and the folder that all of a test lies in. Agents' folders are in ``folder/agents``."""

    driver: AgentDriver
    folder: Path

    def spec(self, options: AgentOptions | None = None) -> AgentSpec:
        """That of an agent that there never was."""
        agent_id = str(uuid4())
        cwd = self.folder / "workspaces" / agent_id
        cwd.mkdir(parents=True)
        return AgentSpec(agent_id, self.folder / "agents" / agent_id, cwd, options or AgentOptions())

    def needs(self, capability: str) -> None:
        """Skips the test of a driver that says it lacks this."""
        if capability not in self.driver.capabilities:
            pytest.skip(f"the driver {self.driver.name} does not say that it can: {capability}")


class DriverConformance:
    """Subclass it, and say how the driver is made, and what makes its agents do things.

    Rules for what the driver's ``capabilities`` do not name are skipped. Needs pytest and anyio's plugin for it, which
    comes with anyio. What a driver needs around it (a server for its model ...) may be a fixture of the subclass, with
    ``autouse=True``.
    """

    pytestmark = pytest.mark.anyio

    turn_seconds = 30.0
    """How long a start, or a turn, may take."""

    soon_seconds = 10.0
    """How long an interrupt, a close and all the rest may take: the engine waits no longer."""

    other_model = "other-model"
    """A model that is not the default one."""

    permissive_mode: str | None = None
    """A permission mode in which what `asks` leads to is done without asking; None: there is none."""

    # What the author says.

    def create(self, folder: Path) -> AgentDriver:
        """A driver that was not opened yet, whose agents' folders will lie in ``folder/agents``."""
        raise NotImplementedError

    def says(self, text: str) -> Content:
        """A query that is answered with this text, to the letter, and nothing else."""
        raise NotImplementedError

    def endless(self) -> Content:
        """A query with a long answer, of which something is said at once: a minute at least, unless interrupted."""
        raise NotImplementedError

    def works(self) -> Content:
        """A query whose turn, after its first event, is ready to take up what is handed over to it."""
        return self.says("one two three")

    def asks(self) -> Content | None:
        """A query that leads to one permission request, each time; None: there is none."""
        return None

    def took_effect(self, spec: AgentSpec, events: Sequence[AgentEvent]) -> bool:
        """Whether that for which `asks` has asked was done. ``events`` are those of the turn so far."""
        return any(event["type"] == "tool_result" and not event["is_error"] for event in events)

    def recalls(self, text: str) -> Content | None:
        """A query that shows whether the agent remembers that ``text`` was said to it, or by it; None: none does."""
        return None

    def recalled(self, text: str, events: Sequence[AgentEvent]) -> bool:
        """Whether the turn of `recalls`, whose events these are, has shown that."""
        return text in text_of(events)

    def shows_model(self) -> Content | None:
        """A query that shows with which model it is answered; None: there is none."""
        return None

    def model_of(self, events: Sequence[AgentEvent]) -> str | None:
        """The model that the turn of `shows_model`, whose events these are, has shown."""
        return text_of(events)

    def bad(self) -> Sequence[Any]:
        """Queries that make no sense."""
        return [], [{"type": "text"}], [{"type": "bogus"}], [7]

    def leftovers(self, folder: Path) -> Sequence[object]:
        """What agents in ``folder`` still have running, such as processes. Nothing must be, once they are closed."""
        return ()

    # What the tests are made of.

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def stage(self, tmp_path: Path) -> AsyncIterator[Stage]:
        async with self.staged(tmp_path) as stage:
            yield stage

    @asynccontextmanager
    async def staged(self, folder: Path) -> AsyncIterator[Stage]:
        driver = self.create(folder)
        await driver.open()
        try:
            yield Stage(driver, folder)
        finally:
            await driver.close()

    @asynccontextmanager
    async def agent(self, stage: Stage, spec: AgentSpec | None = None) -> AsyncIterator[Agent]:
        agent = await self.start(stage, spec or stage.spec())
        try:
            yield agent
        finally:
            await self.close(agent)

    async def start(self, stage: Stage, spec: AgentSpec) -> Agent:
        with bounded(self.turn_seconds, "start()"), _unraised("start()"):
            return await stage.driver.start(spec)

    async def close(self, agent: Agent) -> None:
        with bounded(self.soon_seconds, "close() of an agent"), _unraised("close() of an agent"):
            await agent.close()

    async def interrupt(self, agent: Agent) -> None:
        with bounded(self.soon_seconds, "interrupt()"), _unraised("interrupt()"):
            await agent.interrupt()

    async def steer(self, agent: Agent, turn: Turn) -> None:
        with bounded(self.soon_seconds, "steer()"), _unraised("steer()", InvalidRequest):
            await agent.steer(turn)

    async def configure(self, agent: Agent, options: AgentOptions) -> None:
        with bounded(self.soon_seconds, "configure()"), _unraised("configure()"):
            await agent.configure(options)

    async def answer(self, agent: Agent, request_id: str, decision: Decision) -> None:
        with bounded(self.soon_seconds, "answer()"):
            await agent.answer(request_id, decision)

    def running(self, agent: Agent, content: Content | Turn) -> AbstractAsyncContextManager[Following]:
        """A turn beside the block."""
        turn = content if isinstance(content, Turn) else Turn(uuid4().hex, content)
        return following(agent, turn, self.turn_seconds)

    async def turn(self, agent: Agent, content: Content | Turn) -> Sequence[AgentEvent]:
        """A whole turn. Fails the test where it has raised something."""
        async with self.running(agent, content) as turn:
            return await turn.end()

    async def attempt(self, agent: Agent, content: Content | Turn) -> Following:
        """A whole turn, or what it has raised."""
        async with self.running(agent, content) as turn:
            with bounded(self.turn_seconds, "a turn"):
                await turn.over.wait()
        return turn

    async def works_on(self, agent: Agent, after: str) -> None:
        """Fails the test where the agent is of no use any more."""
        text = f"well {uuid4().hex[:8]}"
        turn = await self.attempt(agent, self.says(text))
        assert turn.failure is None, f"after {after} a turn raised {turn.failure!r}"
        said, end = text_of(turn.events), ended(turn.events)["stop_reason"]
        assert (said, end) == (text, "end_turn"), f"after {after} a turn said {said!r} for {text!r}, and ended: {end}"

    async def gone(self, agent: Agent) -> None:
        """Fails the test where the agent acts as if it were not closed."""
        failure = (await self.attempt(agent, self.says("anybody?"))).failure
        assert isinstance(failure, AgentFailed), f"run() of a closed agent raised {failure!r}, and not AgentFailed"
        with bounded(self.soon_seconds, "watch() of a closed agent"):
            failure = await _watched(agent)
        assert isinstance(failure, AgentFailed), f"watch() of a closed agent raised {failure!r}, and not AgentFailed"

    async def nothing_left(self, stage: Stage, after: str) -> None:
        with anyio.move_on_after(self.soon_seconds):
            while self.leftovers(stage.folder):  # noqa: ASYNC110 - nobody tells when a killed process has gone
                await anyio.sleep(0.02)
        left = self.leftovers(stage.folder)
        assert not left, f"after {after} there is still {left}"

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
        with bounded(self.turn_seconds, "check()"), _unraised("check()"):
            await stage.driver.check()

    async def test_a_cancelled_start_leaves_nothing(self, stage: Stage) -> None:
        """A start that is cancelled, at whatever moment, leaves nothing behind, and the agent can be started anew."""
        spec = stage.spec()
        for seconds in (0.0, 0.003, 0.03, 0.1):
            agent: Agent | None = None
            with anyio.move_on_after(seconds), _unraised("start()"):
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

    async def test_usage_is_of_the_turn(self, stage: Stage) -> None:
        """Usage and cost are those of the turn, and no sums over the turns before."""
        async with self.agent(stage) as agent:
            ends = [ended(await self.turn(agent, self.says("one two three"))) for _ in range(4)]
        for name in ("output_tokens", "cost_usd"):
            spent = [end["cost_usd"] if name == "cost_usd" else end["usage"].get(name, 0) for end in ends]
            assert spent[3] <= 3 * spent[0], f"{name} of four like turns: {spent}"

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

    async def _interrupted(self, agent: Agent, turn: Following) -> None:
        await self.interrupt(agent)
        events = await turn.end(self.soon_seconds)
        reason, kinds = ended(events)["stop_reason"], [event["type"] for event in events]
        assert reason == "interrupted", f"the interrupted turn ended with {reason}"
        assert "error" not in kinds, f"an interrupt is no error: {kinds}"

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
                taken_up = message.turn_id in _steered_ids(turn.events)
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
        if steering.turn_id in _steered_ids(events):
            return [events]
        late = await self.attempt(agent, steering)
        if isinstance(late.failure, InvalidRequest):
            return [events]
        assert late.failure is None, f"the message that was not taken up raised {late.failure!r} when it was run"
        return [events, late.events]

    # Permissions.

    async def test_what_is_allowed_is_done(self, stage: Stage) -> None:
        """What is asked for is done once it is allowed, and not before."""
        spec, asks = self._asking(stage)
        async with self.agent(stage, spec) as agent, self.running(agent, asks) as turn:
            request_id = await turn.asked()
            assert not self.took_effect(spec, turn.events), "it was done before anybody has answered"
            await self.answer(agent, request_id, Decision("allow"))
            events = await turn.end()
            assert self.took_effect(spec, events), "it was allowed, and not done"
            ended(events)

    async def test_what_is_denied_is_not_done(self, stage: Stage) -> None:
        """What is denied is not done, and the turn goes on to its end."""
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

    def _asking(self, stage: Stage) -> tuple[AgentSpec, Content]:
        stage.needs("permissions")
        asks = self.asks()
        if asks is None:
            pytest.skip("asks() names no query that leads to a permission request")
        return stage.spec(), asks

    async def _answer_in_vain(self, agent: Agent, request_id: str) -> None:
        try:
            await self.answer(agent, request_id, Decision("deny", message="Too late."))
        except PorticoError:
            return
        except Exception as failure:
            raise AssertionError(f"an answer that nobody waits for raised {failure!r}") from failure

    # Ends.

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
            _check_closed(turn)
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
        _check_closed(turn)
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
            raised.append(await _watched(agent))
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

    # Sessions that last.

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
            with bounded(self.soon_seconds, "claim()"), _unraised("claim()"):
                await agent.claim(wanted)
            await self.works_on(agent, "a claim")
            if shows_model is not None:
                model = self.model_of(await self.turn(agent, shows_model))
                assert model == self.other_model, f"it was claimed for {self.other_model}, and answers with {model}"
            if asks is not None and self.permissive_mode is not None:
                await self._does_not_ask(agent, wanted, asks)

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
                    await self._does_not_ask(agent, spec, asks)
                    continue
                async with self.running(agent, asks) as turn:
                    request_id = await turn.asked()
                    await self.answer(agent, request_id, Decision("deny"))
                    await turn.end()

    async def _does_not_ask(self, agent: Agent, spec: AgentSpec, asks: Content) -> None:
        async with self.running(agent, asks) as turn:
            await turn.until(
                lambda event: event["type"] in ("permission_request", "complete"), "a request or the end of the turn"
            )
            kinds = [event["type"] for event in turn.events]
            assert "permission_request" not in kinds, f"in the mode {self.permissive_mode} it asks for permission"
            events = await turn.end()
        assert self.took_effect(spec, events), f"in the mode {self.permissive_mode} it was not done"


async def _watched(agent: Agent) -> Exception | None:
    """What watch() has raised."""
    try:
        await agent.watch()
    except Exception as failure:
        return failure
    return None


@contextmanager
def _unraised(what: str, *but: type[Exception]) -> Iterator[None]:
    """Fails the test where the block raises anything ``but`` these."""
    try:
        yield
    except but:
        raise
    except Exception as failure:
        raise AssertionError(f"{what} raised {failure!r}") from failure


def text_of(events: Sequence[AgentEvent]) -> str:
    """What the agent says in the finished messages of a turn."""
    blocks = [
        block
        for event in events
        if event["type"] == "message" and event["role"] == "assistant" and "parent_tool_use_id" not in event
        for block in event["content"]
    ]
    return "".join(block["text"] for block in blocks if block.get("type") == "text")


def ended(events: Sequence[AgentEvent]) -> Complete:
    """The last event. Fails the test where it is no `Complete`."""
    assert events, "a turn had no events"
    last = events[-1]
    assert last["type"] == "complete", f"a turn ended without complete: {[event['type'] for event in events]}"
    return last


def _steered_ids(events: Sequence[AgentEvent]) -> set[str]:
    notices = [event for event in events if event["type"] == "notice" and event["name"] == "steered"]
    return {notice["detail"]["turn_id"] for notice in notices}


def _check_closed(turn: Following) -> None:
    """A turn whose agent was closed may end as an interrupted one does."""
    if turn.failure is None:
        ended(turn.events)
    else:
        assert isinstance(turn.failure, AgentFailed), f"the turn of a closed agent raised {turn.failure!r}"
