"""A driver under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from portico.core.abilities import ABILITIES
from portico.core.agent import Agent, AgentDriver, AgentOptions, AgentSpec, Decision, Suggestion, Turn
from portico.core.errors import AgentFailed, InvalidRequest
from portico.core.events import AgentEvent, Content
from portico.testing.driver.outcomes import ended, text_of, unraised, watched
from portico.testing.following import Following, bounded, following

CAPABILITIES = ABILITIES | {
    *("interrupt", "steer", "permissions", "resume", "claim", "set_model", "set_permission_mode", "permission_rules"),
    "late_answers",
    "documents",
    *("output_schema", "effort", "fallback_model", "add_dirs", "agents"),
}


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
        output_schema={"type": "object"},
        effort="low",
        fallback_model="n",
        add_dirs=("/srv",),
        agents={"a": {"description": "d", "prompt": "p"}},
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


class DriverHarness:
    """The part that the author of a driver completes, and what its tests stand on."""

    pytestmark = pytest.mark.anyio

    turn_seconds = 120.0
    """The longest time that a start, or a turn, may take."""

    soon_seconds = 30.0
    """The longest time for an interrupt, a close and everything else: the engine waits no longer."""

    other_model = "other-model"
    """A model that is not the default one."""

    permissive_mode: str | None = None
    """A permission mode in which what `asks` leads to is done without asking; None: there is none."""

    permission_rule: ClassVar[Suggestion | None] = None
    """A permission rule under which what `asks` leads to is done without asking; None: there is none."""

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

    def asks_a_question(self) -> Content | None:
        """A query whose turn asks one question (`kind`), and goes on once it is answered; None: there is none."""
        return None

    def took_effect(self, spec: AgentSpec, events: Sequence[AgentEvent]) -> bool:
        """Tell whether the action that `asks` requested was done. ``events`` are those of the turn so far."""
        return any(event["type"] == "tool_result" and not event["is_error"] for event in events)

    def recalls(self, text: str) -> Content | None:
        """A query that shows whether the agent remembers that ``text`` was said to it, or by it; None: none does."""
        return None

    def recalled(self, text: str, events: Sequence[AgentEvent]) -> bool:
        """Tell whether these events, of the turn of `recalls`, show that the agent remembers."""
        return text in text_of(events)

    def shows_model(self) -> Content | None:
        """A query that shows with which model it is answered; None: there is none."""
        return None

    def model_of(self, events: Sequence[AgentEvent]) -> str | None:
        """The model that the turn of `shows_model`, whose events these are, has shown."""
        return text_of(events)

    def works_behind(self) -> Content | None:
        """A query whose turn begins a task in the background, of a minute at least; None: there is none."""
        return None

    def gives(self, value: dict[str, Any]) -> Content | None:
        """A query that is answered with this structured output, if the agent has an output schema that it fits."""
        return None

    def bad(self) -> Sequence[Any]:
        """Queries that make no sense."""
        return [], [{"type": "text"}], [{"type": "bogus"}], [7]

    def leftovers(self, folder: Path) -> Sequence[object]:
        """Return whatever agents in ``folder`` still have running, such as processes: nothing, once they are closed."""
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
        with bounded(self.turn_seconds, "start()"), unraised("start()"):
            return await stage.driver.start(spec)

    async def close(self, agent: Agent) -> None:
        with bounded(self.soon_seconds, "close() of an agent"), unraised("close() of an agent"):
            await agent.close()

    async def interrupt(self, agent: Agent) -> None:
        with bounded(self.soon_seconds, "interrupt()"), unraised("interrupt()"):
            await agent.interrupt()

    async def steer(self, agent: Agent, turn: Turn) -> None:
        with bounded(self.soon_seconds, "steer()"), unraised("steer()", InvalidRequest):
            await agent.steer(turn)

    async def configure(self, agent: Agent, options: AgentOptions) -> None:
        with bounded(self.soon_seconds, "configure()"), unraised("configure()"):
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
            failure = await watched(agent)
        assert isinstance(failure, AgentFailed), f"watch() of a closed agent raised {failure!r}, and not AgentFailed"

    async def nothing_left(self, stage: Stage, after: str) -> None:
        with anyio.move_on_after(self.soon_seconds):
            while self.leftovers(stage.folder):  # noqa: ASYNC110 - nobody tells when a killed process has gone
                await anyio.sleep(0.02)
        left = self.leftovers(stage.folder)
        assert not left, f"after {after} there is still {left}"

    def _asking(self, stage: Stage) -> tuple[AgentSpec, Content]:
        stage.needs("permissions")
        asks = self.asks()
        if asks is None:
            pytest.skip("asks() names no query that leads to a permission request")
        return stage.spec(), asks

    async def _interrupted(self, agent: Agent, turn: Following) -> None:
        await self.interrupt(agent)
        events = await turn.end(self.soon_seconds)
        reason, kinds = ended(events)["stop_reason"], [event["type"] for event in events]
        assert reason == "interrupted", f"the interrupted turn ended with {reason}"
        assert "error" not in kinds, f"an interrupt is no error: {kinds}"
