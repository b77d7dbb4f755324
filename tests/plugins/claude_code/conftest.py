"""The driver, before the scripted model: for tests on the real CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portico.core.agent import AgentSpec
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from portico.plugins.claude_code.driver import ClaudeDriver
from portico.plugins.demo.model_server import ServedModel, serve_model
from tests.support.agents import real_cli
from tests.support.claude import driving, new_spec, started


@pytest.fixture
async def model() -> AsyncIterator[ServedModel]:
    real_cli()
    async with serve_model() as served:
        yield served


@pytest.fixture
async def driver(model: ServedModel, tmp_path: Path) -> AsyncIterator[ClaudeDriver]:
    async with driving(tmp_path, api_key="test-key", base_url=model.url) as driver:
        yield driver


@pytest.fixture
def spec(tmp_path: Path) -> AgentSpec:
    return new_spec(tmp_path)


@pytest.fixture
async def agent(driver: ClaudeDriver, spec: AgentSpec) -> AsyncIterator[ClaudeAgent]:
    async with started(driver, spec) as agent:
        yield agent
