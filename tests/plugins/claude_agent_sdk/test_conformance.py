"""The driver keeps the rules of drivers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portico.core.agent import AgentDriver
from portico.plugins.claude_agent_sdk.driver import SdkDriver
from portico.plugins.claude_code.config import DriverConfig
from tests.testing import test_driver_suite

pytest.importorskip("claude_agent_sdk")


@pytest.mark.long
class TestClaudeAgentSdk(test_driver_suite.TestClaudeCode):
    def create(self, folder: Path) -> AgentDriver:
        environment = {"PATH": os.environ["PATH"]}
        config = DriverConfig(folder / "agents", environment, api_key="test-key", base_url=self.model.url)
        return SdkDriver(config)
