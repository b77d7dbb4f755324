"""A driver of the `claude-agent-sdk` kind, ready to start agents."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from portico.core.agent import Agent, AgentSpec
from portico.plugins.claude_agent_sdk.driver import SdkDriver
from portico.plugins.claude_code.config import DriverConfig

pytest.importorskip("claude_agent_sdk")


@asynccontextmanager
async def driving(folder: Path, **settings: Any) -> AsyncIterator[SdkDriver]:
    """An open driver whose agents live in ``folder/agents``; ``settings`` are `DriverConfig`'s."""
    environment = {"PATH": os.environ["PATH"], **settings.pop("environment", {})}
    driver = SdkDriver(DriverConfig(agents=folder / "agents", environment=environment, **settings))
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def started(driver: SdkDriver, spec: AgentSpec) -> AsyncIterator[Agent]:
    agent = await driver.start(spec)
    try:
        yield agent
    finally:
        await agent.close()
