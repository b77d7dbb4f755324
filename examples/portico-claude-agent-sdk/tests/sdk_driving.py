"""The driver, ready to start agents, and what its tests do with them."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psutil
import pytest
from portico_claude_agent_sdk.driver import SdkDriver

from portico import Agent, AgentOptions, AgentSpec, AgentUnavailable, OwnTurn, Turn
from portico.plugins.claude_code.toolkit import DriverConfig, find_cli
from portico.testing import ServedModel

Event = dict[str, Any]


def real_cli() -> Path:
    """Return the real CLI, or skip the test if there is none."""
    try:
        return find_cli(None, os.environ["PATH"])
    except AgentUnavailable as error:
        pytest.skip(error.detail)


def new_driver(folder: Path, **settings: Any) -> SdkDriver:
    """Make a driver with its agents in ``folder/agents``; ``settings`` are those of `DriverConfig`."""
    environment = {"PATH": os.environ["PATH"], **settings.pop("environment", {})}
    return SdkDriver(DriverConfig(agents=folder / "agents", environment=environment, **settings))


@asynccontextmanager
async def driving(folder: Path, **settings: Any) -> AsyncIterator[SdkDriver]:
    """The same, opened."""
    driver = new_driver(folder, **settings)
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
async def started(driver: SdkDriver, spec: AgentSpec) -> AsyncIterator[Agent]:
    agent = await driver.start(spec)
    try:
        yield agent
    finally:
        await agent.close()


async def turn(agent: Agent, content: Any, within: float = 120) -> list[Event]:
    """Return all events of one turn."""
    asked = content if isinstance(content, Turn | OwnTurn) else Turn("turn", content)
    events: list[Event] = []
    with anyio.fail_after(within):
        async for event in agent.run(asked):
            events.append(dict(event))
    return events


def script(*steps: dict[str, Any]) -> str:
    """Make a text that tells the scripted model what to reply."""
    return f"[{json.dumps(list(steps))}]"


def tool(name: str, **inputs: Any) -> dict[str, Any]:
    return {"name": name, "input": inputs}


def last_request(model: ServedModel) -> Any:
    """Return the body of the last request to the model."""
    return model.model.requests[-1].body


def conversation(model: ServedModel) -> str:
    """Return the messages of the last request to the model."""
    return json.dumps(last_request(model)["messages"])


def text(events: list[Event]) -> str:
    """Return all finished text, as the user reads it."""
    blocks = [b for e in events if e["type"] == "message" for b in e["content"]]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def streamed(events: list[Event]) -> str:
    return "".join(event["content"] for event in events if event["type"] == "delta")


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return all live processes with this agent's marker in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PORTICO_AGENT") == str(folder):
                found.append(process)
    return found


def unique_seconds() -> str:
    """Return two minutes for `sleep`, as a word that is on no other command line of this machine."""
    return f"120.{secrets.randbelow(10**15):015}"


def processes_with(word: str) -> list[psutil.Process]:
    """Return all live processes with this word on their command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if word in process.cmdline():
                found.append(process)
    return found


def live(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run. A process that has ended but was not waited for does not."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def gone_soon(processes: Sequence[psutil.Process], within: float = 120) -> bool:
    """Wait until all of them have ended; return whether they did within so many seconds."""
    end = time.monotonic() + within
    while live(processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def kill(spec: AgentSpec) -> None:
    """SIGKILL all processes of this agent."""
    end = time.monotonic() + 120
    while not (killed := processes_of(spec.folder)):  # a process shows no environment for a moment during exec
        assert time.monotonic() < end
        time.sleep(0.005)
    for process in killed:
        with suppress(psutil.NoSuchProcess):  # the death of one may end another
            process.kill()
    assert gone_soon(killed)
