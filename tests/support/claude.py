"""A driver of the `claude-code` kind, ready to start agents, and what its tests do with them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psutil

from portico.core.agent import Agent, AgentOptions, AgentSpec, OwnTurn, Turn
from portico.core.events import Content
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.driver import ClaudeDriver
from portico.plugins.demo.model_server import ServedModel
from tests.support.agents import gone_soon, processes_of
from tests.support.limits import HANG_SECONDS

Event = dict[str, Any]


@asynccontextmanager
async def driving(folder: Path, **settings: Any) -> AsyncIterator[ClaudeDriver]:
    """An open driver whose agents live in ``folder/agents``; ``settings`` are `DriverConfig`'s."""
    environment = {"PATH": os.environ["PATH"], **settings.pop("environment", {})}
    driver = ClaudeDriver(DriverConfig(agents=folder / "agents", environment=environment, **settings))
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


def new_spec(folder: Path, **options: Any) -> AgentSpec:
    agent_id = str(uuid4())
    cwd = folder / "work" / agent_id[:8]
    cwd.mkdir(parents=True)
    return AgentSpec(agent_id, folder / "agents" / agent_id, cwd, AgentOptions(**options))


@asynccontextmanager
async def started(driver: ClaudeDriver, spec: AgentSpec) -> AsyncIterator[ClaudeAgent]:
    agent = await driver.start(spec)
    try:
        yield agent
    finally:
        await agent.close()


async def turn(agent: Agent, content: Content | Turn | OwnTurn, within: float = HANG_SECONDS) -> list[Event]:
    """All events of one turn."""
    asked = content if isinstance(content, Turn | OwnTurn) else Turn(uuid4().hex, content)
    events: list[Event] = []
    with anyio.fail_after(within):
        async for event in agent.run(asked):
            events.append(dict(event))
    return events


async def own_turn(agent: Agent, asides: list[Event] | None = None) -> OwnTurn:
    """The next turn that the agent begins by itself; ``asides`` gets the events before it that belong to no turn."""
    with anyio.fail_after(HANG_SECONDS):
        while not isinstance(said := await agent.watch(), OwnTurn):
            if asides is not None:
                asides.append(dict(said))
    return said


def script(*steps: dict[str, Any]) -> str:
    """A text that tells the scripted model what to reply."""
    return f"[{json.dumps(list(steps))}]"


def tool(name: str, **inputs: Any) -> dict[str, Any]:
    return {"name": name, "input": inputs}


def conversation(model: ServedModel) -> str:
    """Return the last request of the model's."""
    return json.dumps(model.model.requests[-1].body["messages"])


def kill(spec: AgentSpec) -> None:
    """SIGKILL all processes of this agent."""
    end = time.monotonic() + HANG_SECONDS
    while not (killed := processes_of(spec.folder)):  # one that is being executed shows no environment for a moment
        assert time.monotonic() < end
        time.sleep(0.005)
    for process in killed:
        with suppress(psutil.NoSuchProcess):  # the death of one may be that of another
            process.kill()
    assert gone_soon(killed)


def text(events: list[Event]) -> str:
    """Return the text that the user reads: all finished text."""
    blocks = [b for e in events if e["type"] == "message" for b in e["content"]]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def streamed(events: list[Event]) -> str:
    return "".join(event["content"] for event in events if event["type"] == "delta")


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]
