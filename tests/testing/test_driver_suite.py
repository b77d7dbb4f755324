"""The drivers that are built in keep the rules of drivers."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from portico.core.agent import AgentDriver, AgentSpec, Suggestion
from portico.core.events import AgentEvent, Content
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.driver import ClaudeDriver
from portico.plugins.demo.model_server import ServedModel, serve_model
from portico.plugins.echo.driver import EchoDriver
from portico.testing.driver import DriverConformance
from tests.support.agents import live, processes_of, real_cli
from tests.support.claude import script, tool


class EchoConformance(DriverConformance):
    other_model = "other"
    permissive_mode = "acceptEdits"

    def create(self, folder: Path) -> AgentDriver:
        return EchoDriver()

    def says(self, text: str) -> Content:
        return text

    def endless(self) -> Content:
        return json.dumps({"deltas": None, "gap": 0.001})

    def asks(self) -> Content:
        return json.dumps({"ask": {"tool_name": "Write", "input": {"file_path": "a"}}})

    def shows_model(self) -> Content:
        return json.dumps({"tell": "model"})

    def gives(self, value: dict[str, Any]) -> Content:
        return json.dumps({"give": value})


class TestEcho(EchoConformance):
    pass


@pytest.mark.long
@pytest.mark.real_cli
class TestClaudeCode(DriverConformance):
    other_model = "claude-other-1"
    permissive_mode = "acceptEdits"
    permission_rule: ClassVar[Suggestion | None] = {
        "type": "addRules",
        "behavior": "allow",
        "rules": [{"toolName": "Write"}],
    }

    model: ServedModel

    @pytest.fixture(autouse=True)
    async def served(self) -> AsyncIterator[None]:
        real_cli()
        self.files = count()
        async with serve_model() as self.model:
            yield

    def create(self, folder: Path) -> AgentDriver:
        environment = {"PATH": os.environ["PATH"]}
        config = DriverConfig(folder / "agents", environment, api_key="test-key", base_url=self.model.url)
        return ClaudeDriver(config)

    def says(self, text: str) -> Content:
        return script({"say": text})

    def endless(self) -> Content:
        return script({"words": 5_000, "gap_ms": 20})

    def works(self) -> Content:
        return script({"say": "I look.", "tool": tool("Bash", command="sleep 0.3")}, {"say": "I have looked."})

    def asks(self) -> Content:
        return script({"tool": tool("Write", file_path=f"{next(self.files)}.txt", content="made")})

    def took_effect(self, spec: AgentSpec, events: Sequence[AgentEvent]) -> bool:
        paths = [event["input"]["file_path"] for event in events if event["type"] == "tool_use"]
        return any((spec.cwd / path).exists() for path in paths)

    def works_behind(self) -> Content:
        return script({"tool": tool("Bash", command="sleep 600", run_in_background=True)}, {"say": "It runs."})

    def gives(self, value: dict[str, Any]) -> Content:
        return script({"tool": tool("StructuredOutput", **value)})

    def recalls(self, text: str) -> Content:
        return script({"say": "I do."})

    def recalled(self, text: str, events: Sequence[AgentEvent]) -> bool:
        return text in json.dumps(self._asked()["messages"])

    def asks_a_question(self) -> Content:
        options = [{"label": label, "description": label} for label in ("Red", "Blue")]
        question = {"question": "Which?", "header": "Which", "options": options, "multiSelect": False}
        return script({"tool": tool("AskUserQuestion", questions=[question])}, {"say": "noted"})

    def shows_model(self) -> Content:
        return script({"say": "It is me."})

    def model_of(self, events: Sequence[AgentEvent]) -> str:
        return str(self._asked()["model"])

    def leftovers(self, folder: Path) -> Sequence[object]:
        return live([process for agent in (folder / "agents").glob("*") for process in processes_of(agent)])

    def _asked(self) -> dict[str, Any]:
        """Return the last request of the model's."""
        body: dict[str, Any] = self.model.model.requests[-1].body
        return body
