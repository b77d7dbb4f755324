"""The driver, before the scripted model: for tests on the real CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portico.core.agent import Agent, AgentSpec
from portico.plugins.claude_agent_sdk.driver import SdkDriver
from portico.plugins.demo.server import ServedModel, serve_model
from tests.plugins.claude_agent_sdk.driving import driving, started
from tests.support.agents import real_cli
from tests.support.claude import new_spec


@pytest.fixture
async def model() -> AsyncIterator[ServedModel]:
    real_cli()
    async with serve_model() as served:
        yield served


@pytest.fixture
async def driver(model: ServedModel, tmp_path: Path) -> AsyncIterator[SdkDriver]:
    async with driving(tmp_path, api_key="test-key", base_url=model.url) as driver:
        yield driver


@pytest.fixture
def spec(tmp_path: Path) -> AgentSpec:
    return new_spec(tmp_path)


@pytest.fixture
async def agent(driver: SdkDriver, spec: AgentSpec) -> AsyncIterator[Agent]:
    async with started(driver, spec) as agent:
        yield agent
