"""Changes of a running agent: as requests, and with the real CLI."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import AgentOptions, AgentSpec
from portico.core.errors import AgentFailed, InvalidRequest
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from portico.plugins.claude_code.driver import ClaudeDriver
from portico.plugins.claude_code.option_changes import change_requests, claim_requests, fixed_options
from portico.plugins.demo.model_server import ServedModel
from tests.support.agents import processes_of
from tests.support.claude import driving, kill, kinds, new_spec, script, started, text, tool, turn
from tests.support.limits import HANG_SECONDS

real = [pytest.mark.anyio, pytest.mark.real_cli]
BLANK = AgentOptions()


def test_what_is_fixed_at_the_start_and_what_is_not() -> None:
    changeable = AgentOptions(model="m", permission_mode="plan", system_prompt="s", append_system_prompt="a")
    assert fixed_options(changeable) == BLANK
    for fixed in (
        AgentOptions(allowed_tools=("Read",)),
        AgentOptions(disallowed_tools=("Bash",)),
        AgentOptions(mcp_servers={"a": {}}),
        AgentOptions(max_turns=3),
        AgentOptions(setting_sources=("project",)),
        AgentOptions(permission_mode="bypassPermissions"),
    ):
        assert fixed_options(fixed) == fixed != BLANK


def test_a_claim_says_what_is_asked_for_and_nothing_else() -> None:
    assert list(claim_requests(BLANK, BLANK, "d")) == []
    prompts = replace(BLANK, append_system_prompt="a")
    assert list(claim_requests(BLANK, prompts, None)) == [("initialize", {"appendSystemPrompt": "a"})]
    everything = AgentOptions(model="m", permission_mode="plan", system_prompt="s")
    assert list(claim_requests(BLANK, everything, None)) == [
        ("initialize", {"systemPrompt": ["s"]}),
        ("set_model", {"model": "m"}),
        ("set_permission_mode", {"mode": "plan"}),
    ]


def test_a_change_always_says_the_mode_and_knows_the_default_model() -> None:
    assert list(change_requests(BLANK, BLANK, "d")) == [("set_permission_mode", {"mode": "default"})]
    ((_, members), _) = change_requests(replace(BLANK, model="m"), BLANK, "d")
    assert members == {"model": "d"}


def asked_last(model: ServedModel) -> dict[str, Any]:
    body: dict[str, Any] = model.model.requests[-1].body
    return body


@asynccontextmanager
async def ahead(driver: ClaudeDriver, spec: AgentSpec) -> AsyncIterator[ClaudeAgent]:
    """An agent started for whoever may come, as the pool has it: watched until it is claimed."""
    blank = replace(spec, options=driver.fixed(spec.options))
    async with started(driver, blank) as agent:
        with anyio.move_on_after(0.5):
            await agent.watch()
        yield agent


class TestClaim:
    pytestmark = real

    async def test_the_agent_becomes_what_is_asked_for_and_stays_so(
        self, driver: ClaudeDriver, tmp_path: Path, model: ServedModel
    ) -> None:
        spec = new_spec(
            tmp_path,
            model="claude-x",
            permission_mode="plan",
            system_prompt="Be a heron.",
            append_system_prompt="Wade.",
        )
        async with ahead(driver, spec) as agent:
            assert not model.model.requests  # neither its start nor its warming up
            before = processes_of(spec.folder)
            await agent.claim(spec)
            assert "hello" in text(await turn(agent, "hello"))
            first = asked_last(model)
            assert set(before) <= set(processes_of(spec.folder))
            kill(spec)
        async with started(driver, spec) as agent:
            await turn(agent, "again")
            later = asked_last(model)
        assert "hello" in json.dumps(later["messages"])
        for body in (first, later):
            assert body["model"] == "claude-x"
            assert "Be a heron.\\n\\nWade." in json.dumps(body["system"])
            assert "Plan mode" in json.dumps(body["messages"])

    async def test_one_claimed_for_nothing_special_is_as_one_started_for_it(
        self, driver: ClaudeDriver, tmp_path: Path, model: ServedModel
    ) -> None:
        bodies = []
        for make in (ahead, started):
            spec = new_spec(tmp_path)
            async with make(driver, spec) as agent:
                await agent.claim(spec)
                await turn(agent, "hello")
            text = json.dumps([asked_last(model)[name] for name in ("model", "system", "messages", "tools")])
            bodies.append(text.replace(str(spec.cwd), "CWD").replace(spec.agent_id, "ID").replace(spec.cwd.name, "CWD"))
        assert bodies[0] == bodies[1]

    async def test_an_agent_started_for_something_else_is_refused(self, driver: ClaudeDriver, spec: AgentSpec) -> None:
        async with ahead(driver, spec) as agent:
            for other in (
                replace(spec, agent_id="x"),
                replace(spec, cwd=spec.cwd.parent),
                replace(spec, options=AgentOptions(max_turns=1)),
                replace(spec, options=AgentOptions(permission_mode="bypassPermissions")),
            ):
                with pytest.raises(AgentFailed) as caught:
                    await agent.claim(other)
                assert caught.value.code == "agent_mismatch"
            with pytest.raises(InvalidRequest):  # with these it could not be started later
                await agent.claim(replace(spec, options=AgentOptions(system_prompt="\ud800")))
            await agent.claim(spec)
            assert "hello" in text(await turn(agent, "hello"))

    async def test_a_mode_that_there_is_not_or_a_dead_agent_fails_the_claim(
        self, driver: ClaudeDriver, tmp_path: Path
    ) -> None:
        spec = new_spec(tmp_path, permission_mode="nonsense")
        async with ahead(driver, spec) as agent:
            with pytest.raises(AgentFailed, match="must be one of") as caught:
                await agent.claim(spec)
            assert caught.value.code == "agent_error"
            kill(spec)
            with pytest.raises(AgentFailed), anyio.fail_after(HANG_SECONDS):
                await agent.claim(spec)

    async def test_one_that_hangs_fails_the_claim_in_time(
        self, driver: ClaudeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("portico.plugins.claude_code.claude_agent.CONTROL_TIME", 0.3)
        spec = new_spec(tmp_path, permission_mode="plan")
        async with ahead(driver, spec) as agent:
            processes = processes_of(spec.folder)
            for process in processes:
                process.suspend()
            with pytest.raises(AgentFailed) as caught, anyio.fail_after(HANG_SECONDS):
                await agent.claim(spec)
            assert caught.value.code == "agent_stalled"


class TestConfigure:
    pytestmark = real

    async def test_model_and_mode_hold_from_the_next_turn_on_without_a_restart(
        self, model: ServedModel, tmp_path: Path
    ) -> None:
        async with (
            driving(tmp_path, api_key="k", base_url=model.url, model="claude-default") as driver,
            started(driver, new_spec(tmp_path)) as agent,
        ):
            spec = agent._launch.spec
            models = []
            for name in (None, "claude-other", None):
                await agent.configure(AgentOptions(model=name))
                await turn(agent, "hello")
                models.append(asked_last(model)["model"])
            assert models == ["claude-default", "claude-other", "claude-default"]
            assert len(processes_of(spec.folder)) >= 1 and agent._process.returncode is None

            write = script({"tool": tool("Write", file_path="a.txt", content="a")})
            await agent.configure(AgentOptions(permission_mode="acceptEdits"))
            assert "permission_request" not in kinds(await turn(agent, write))
            assert (spec.cwd / "a.txt").exists()

    async def test_a_claimed_agent_can_go_back_to_the_defaults(
        self, driver: ClaudeDriver, tmp_path: Path, model: ServedModel
    ) -> None:
        spec = new_spec(tmp_path, model="claude-x")
        async with ahead(driver, spec) as agent:
            await agent.claim(spec)
            await agent.configure(AgentOptions())
            await turn(agent, "hello")
        assert asked_last(model)["model"] != "claude-x"

    async def test_what_the_cli_refuses_changes_nothing(self, agent: ClaudeAgent) -> None:
        await turn(agent, "hello")
        for mode in ("bypassPermissions", "nonsense"):
            with pytest.raises(AgentFailed) as caught:
                await agent.configure(AgentOptions(permission_mode=mode))
            assert caught.value.code == "agent_error"
        assert "still here" in text(await turn(agent, "still here"))

    async def test_an_agent_that_has_ended_says_so(self, agent: ClaudeAgent) -> None:
        await agent.close()
        with pytest.raises(AgentFailed), anyio.fail_after(HANG_SECONDS):
            await agent.configure(AgentOptions(model="m"))
