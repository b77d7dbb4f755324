"""The driver follows the rules of drivers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from sdk_driving import conversation, last_request, live, new_driver, processes_of, real_cli, script, tool

from portico import AgentDriver, AgentEvent, AgentSpec
from portico.core.events import Content
from portico.testing import DriverConformance, ServedModel, serve_model


@pytest.mark.long
@pytest.mark.real_cli
class TestClaudeAgentSdk(DriverConformance):
    other_model = "claude-other-1"
    permissive_mode = "acceptEdits"

    model: ServedModel

    @pytest.fixture(autouse=True)
    async def served(self) -> AsyncIterator[None]:
        real_cli()
        self.files = count()
        async with serve_model() as self.model:
            yield

    def create(self, folder: Path) -> AgentDriver:
        return new_driver(folder, api_key="test-key", base_url=self.model.url)

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

    def recalls(self, text: str) -> Content:
        return script({"say": "I do."})

    def recalled(self, text: str, events: Sequence[AgentEvent]) -> bool:
        return text in conversation(self.model)

    def shows_model(self) -> Content:
        return script({"say": "It is me."})

    def model_of(self, events: Sequence[AgentEvent]) -> str:
        return str(last_request(self.model)["model"])

    def leftovers(self, folder: Path) -> Sequence[object]:
        return live([process for agent in (folder / "agents").glob("*") for process in processes_of(agent)])
