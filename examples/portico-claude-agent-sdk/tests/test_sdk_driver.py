"""The driver with the real CLI, before the scripted model."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from portico_claude_agent_sdk.driver import SdkDriver
from portico_claude_agent_sdk.transport import CliTransport
from sdk_driving import (
    Event,
    conversation,
    driving,
    gone_soon,
    kill,
    kinds,
    last_request,
    new_spec,
    processes_of,
    processes_with,
    real_cli,
    script,
    started,
    streamed,
    text,
    tool,
    turn,
    unique_seconds,
)

from portico import Agent, AgentFailed, AgentSpec, AgentUnavailable, Decision, OwnTurn, Turn
from portico.core.errors import Conflict, InvalidRequest
from portico.testing import ServedModel, serve_model

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli, pytest.mark.long]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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


async def test_an_answer_comes_word_by_word_and_then_whole(agent: Agent) -> None:
    events = await turn(agent, script({"think": "hm hm", "say": "one two three", "usage": {"output_tokens": 7}}))
    assert [e["content"] for e in events if e["type"] == "delta"] == ["one", " two", " three"]
    assert [e["content"] for e in events if e["type"] == "thinking"] == ["hm", " hm"]
    thought, said = [e for e in events if e["type"] == "message"]
    assert (thought["index"], said["index"]) == (0, 1)
    assert thought["content"][0]["thinking"] == "hm hm"
    assert said["content"] == [{"type": "text", "text": "one two three"}]
    assert {e["message_id"] for e in events if "message_id" in e} == {said["message_id"]}
    end = events[-1]
    assert (end["type"], end["stop_reason"], end["usage"]["output_tokens"]) == ("complete", "end_turn", 7)


async def test_cost_and_usage_are_of_one_turn_also_after_a_restart(
    driver: SdkDriver, spec: AgentSpec, model: ServedModel
) -> None:
    costs = []
    for _ in range(2):
        async with started(driver, spec) as agent:
            for _ in range(2):
                events = await turn(agent, script({"say": "the heron", "usage": {"output_tokens": 100}}))
                costs.append(events[-1]["cost_usd"])
                assert events[-1]["usage"]["output_tokens"] == 100
    assert costs[0] > 0 and costs == pytest.approx([costs[0]] * 4)
    assert conversation(model).count("the heron") > 4  # the text before the restart too


async def test_text_is_text_and_what_would_kill_the_cli_is_refused(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the secret")
    for words in ("/clear", f"@{tmp_path}/secret.txt", "line\nline", "\ud83d half"):
        events = await turn(agent, words)
        assert "You said" in text(events) and "the secret" not in text(events), words
    with pytest.raises(InvalidRequest):
        await turn(agent, [{"type": "bogus"}])
    assert "still here" in text(await turn(agent, [{"type": "text", "text": "still here"}]))


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_tool_runs_only_where_it_is_allowed(agent: Agent, spec: AgentSpec, allowed: bool) -> None:
    write = tool("Write", file_path="made.txt", content="made")
    events: list[Event] = []
    async for event in agent.run(Turn("t", script({"tool": write}, {"say": "over"}))):
        events.append(dict(event))
        if event["type"] == "permission_request":
            assert not (spec.cwd / "made.txt").exists()
            changed = {**event["input"], "content": "changed"}
            decision = Decision("allow", updated_input=changed) if allowed else Decision("deny", message="rather not")
            await agent.answer(event["request_id"], decision)
            with pytest.raises(Conflict):
                await agent.answer(event["request_id"], decision)
    assert (spec.cwd / "made.txt").exists() is allowed
    assert not allowed or (spec.cwd / "made.txt").read_text() == "changed"
    order = [e for e in events if e["type"] in ("tool_use", "permission_request", "tool_result", "complete")]
    assert kinds(order) == ["tool_use", "permission_request", "tool_result", "complete"]
    used, asked, result, _ = order
    assert used["tool_use_id"] == asked["tool_use_id"] == result["tool_use_id"]
    assert result["is_error"] is not allowed and (allowed or result["content"] == "rather not")
    assert text(events) == "over" and events[-1]["stop_reason"] == "end_turn"


async def test_a_remembered_answer_is_not_asked_for_again(agent: Agent, spec: AgentSpec) -> None:
    asked = 0
    for name in ("a", "b"):
        async for event in agent.run(Turn(name, script({"tool": tool("Write", file_path=name, content=name)}))):
            if event["type"] == "permission_request":
                asked += 1
                await agent.answer(event["request_id"], Decision("allow", remember=True))
    assert asked == 1 and (spec.cwd / "b").exists()


async def test_an_interrupt_right_behind_the_query_stops_it(agent: Agent) -> None:
    async def interrupt() -> None:
        await anyio.lowlevel.checkpoint()  # `run` has sent its line by then, or is about to
        await agent.interrupt()

    await turn(agent, "warm up")
    for _ in range(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupt)
            events = await turn(agent, script({"words": 500, "gap_ms": 20}))
        assert events[-1]["stop_reason"] == "interrupted"


async def test_an_interrupt_is_answered_also_where_nobody_reads(agent: Agent) -> None:
    events: list[Event] = []
    with anyio.fail_after(120):
        async for event in agent.run(Turn("t", script({"size": 50_000_000, "gap_ms": 2}))):
            if not events:
                await anyio.sleep(6)  # by then every buffer is full, the SDK's 100 messages too
                await agent.interrupt()
            events.append(dict(event))
    assert events[-1]["stop_reason"] == "interrupted" and len(streamed(events)) > 5_000_000


async def test_an_interrupt_withdraws_what_is_asked(agent: Agent, spec: AgentSpec) -> None:
    events: list[Event] = []
    async for event in agent.run(Turn("t", script({"tool": tool("Write", file_path="a.txt", content="a")}))):
        events.append(dict(event))
        if event["type"] == "permission_request":
            await agent.interrupt()
    (asked,) = [e for e in events if e["type"] == "permission_request"]
    (withdrawn,) = [e for e in events if e["type"] == "permission_withdrawn"]
    assert withdrawn["request_id"] == asked["request_id"]
    assert events[-1]["stop_reason"] == "interrupted" and not (spec.cwd / "a.txt").exists()
    with pytest.raises(TimeoutError), anyio.fail_after(0.3):
        await agent.watch()


async def test_a_request_of_an_agent_that_dies_is_not_withdrawn(agent: Agent, spec: AgentSpec) -> None:
    events: list[Event] = []
    with pytest.raises(AgentFailed) as caught, anyio.fail_after(120):
        async for event in agent.run(Turn("t", script({"tool": tool("Write", file_path="a.txt", content="a")}))):
            events.append(dict(event))
            if event["type"] == "permission_request":
                kill(spec)
    assert caught.value.code == "agent_exited"
    assert kinds(events)[-1] == "permission_request"


async def test_a_turn_that_is_left_does_not_show_in_the_next_one(agent: Agent) -> None:
    with anyio.fail_after(120):
        async for event in agent.run(Turn("t", script({"say": "abandoned", "words": 500, "gap_ms": 20}))):
            if event["type"] == "delta":
                break
        await agent.interrupt()
        events = await turn(agent, script({"say": "fresh"}))
    assert streamed(events) == text(events) == "fresh"


async def test_an_error_of_the_api_has_a_code_and_the_agent_goes_on(agent: Agent) -> None:
    events = await turn(agent, script({"error": 400}))
    error, complete = [event for event in events if event["type"] in ("error", "complete")]
    assert (error["code"], complete["stop_reason"]) == ("invalid_request", "error")
    assert (await turn(agent, "hello"))[-1]["stop_reason"] == "end_turn"


async def test_a_slow_reader_gets_a_long_reply_whole_and_before_what_is_asked(agent: Agent) -> None:
    events: list[Event] = []
    # So many that the last messages wait in the SDK's buffer of 100.
    step = {"size": 4_800_000, "tool": tool("Write", file_path="a.txt", content="a")}
    with anyio.fail_after(120):
        async for event in agent.run(Turn("t", script(step))):
            if not events:
                await anyio.sleep(1.5)
            events.append(dict(event))
            if event["type"] == "permission_request":
                break
    assert len(streamed(events)) == 4_800_000 and text(events) == streamed(events)
    assert kinds(events)[-2:] == ["tool_use", "permission_request"]


async def test_the_end_of_a_background_task_is_a_turn_of_its_own(agent: Agent) -> None:
    command = tool("Bash", command="sleep 0.5", run_in_background=True)
    first = await turn(agent, script({"tool": command}, {"say": "it runs"}, {"say": "it is over"}))
    assert text(first) == "it runs"
    with anyio.fail_after(120):
        while not isinstance(own := await agent.watch(), OwnTurn):
            pass
    assert "sleep 0.5" in own.content
    assert text(await turn(agent, own)) == "it is over"


async def test_model_and_mode_change_between_turns(agent: Agent, spec: AgentSpec, model: ServedModel) -> None:
    await agent.configure(spec.options.with_changes(model="claude-other-1", permission_mode="acceptEdits"))
    events = await turn(agent, script({"tool": tool("Write", file_path="a.txt", content="a")}))
    assert "permission_request" not in kinds(events) and (spec.cwd / "a.txt").exists()
    assert last_request(model)["model"] == "claude-other-1"
    with pytest.raises(AgentFailed) as caught:
        await agent.configure(spec.options.with_changes(permission_mode="nonsense"))
    assert caught.value.code == "agent_error" and "acceptEdits" in caught.value.detail
    assert "hello" in text(await turn(agent, "hello"))


async def test_an_agent_sees_nothing_of_the_servers_environment(
    model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "not yours")
    settings: dict[str, Any] = {"api_key": "test-key", "base_url": model.url, "environment": {"GIVEN": "to agents"}}
    spec = new_spec(tmp_path, permission_mode="bypassPermissions")
    look = tool("Bash", command="env; cat /proc/*/environ | tr '\\0' '\\n'")
    async with driving(tmp_path, **settings) as driver, started(driver, spec) as agent:
        events = await turn(agent, script({"tool": look}))
        own = [process.environ() for process in processes_of(spec.folder)]
    output = next(e["content"] for e in events if e["type"] == "tool_result")
    assert "SERVER_SECRET" not in output and "PYTEST_CURRENT_TEST" not in output
    assert own and not any("SERVER_SECRET" in variables for variables in own)
    assert "GIVEN=to agents" in output and f"HOME={spec.folder}/home" in output


async def test_a_closed_agent_leaves_nothing_behind_and_says_so(driver: SdkDriver, spec: AgentSpec) -> None:
    agent = await driver.start(spec)
    seconds = unique_seconds()
    command = tool("Bash", command=f"setsid sleep {seconds} & sleep {seconds}")
    events: list[Event] = []

    async def run() -> None:
        events.extend([dict(event) async for event in _allowing(agent, script({"tool": command}))])

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            while len(processes_with(seconds)) < 2:
                await anyio.sleep(0.05)
            left = processes_of(spec.folder)
            await agent.close()
    assert events[-1]["stop_reason"] == "interrupted"
    assert gone_soon(left) and not processes_of(spec.folder) and not processes_with(seconds)
    with pytest.raises(AgentFailed) as caught:
        await turn(agent, "anybody?")
    assert caught.value.code == "agent_closed"
    await agent.close()


async def _allowing(agent: Agent, query: str) -> AsyncIterator[Any]:
    async for event in agent.run(Turn("t", query)):
        if event["type"] == "permission_request":
            await agent.answer(event["request_id"], Decision("allow"))
        yield event


async def test_what_an_earlier_server_has_left_is_cleared_at_the_next_start(
    driver: SdkDriver, spec: AgentSpec, tmp_path: Path
) -> None:
    await driver.start(spec)
    left = processes_of(spec.folder)
    async with driving(tmp_path):
        assert left and gone_soon(left)


async def test_an_sdk_that_is_not_as_it_was_leaves_nothing_behind(
    driver: SdkDriver, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CliTransport, "__init__", lambda transport: None)
    with pytest.raises(TypeError):
        await driver.start(spec)
    assert not processes_of(spec.folder)


async def test_an_agent_killed_in_mid_turn_fails_that_turn_and_comes_back(
    driver: SdkDriver, spec: AgentSpec, model: ServedModel
) -> None:
    async with started(driver, spec) as agent:
        await turn(agent, "remember the heron")
        with pytest.raises(AgentFailed) as caught, anyio.fail_after(120):
            async for event in agent.run(Turn("t", script({"words": 500, "gap_ms": 20}))):
                if event["type"] == "delta" and processes_of(spec.folder):
                    kill(spec)
        assert caught.value.code == "agent_exited"
    async with started(driver, spec) as agent:
        assert "are you back" in text(await turn(agent, "are you back"))
    assert "remember the heron" in conversation(model)


async def test_a_transcript_without_a_conversation_does_not_lock_the_session_out(
    driver: SdkDriver, spec: AgentSpec
) -> None:
    folder = spec.folder / "config" / "projects" / "anything"
    folder.mkdir(parents=True)
    (folder / f"{spec.agent_id}.jsonl").write_text("torn\n")
    async with started(driver, spec) as agent:
        assert "hello" in text(await turn(agent, "hello"))


async def test_options_that_the_cli_refuses_are_told_in_its_own_words(driver: SdkDriver, tmp_path: Path) -> None:
    spec = new_spec(tmp_path, permission_mode="nonsense")
    with pytest.raises(AgentUnavailable, match="nonsense") as caught:
        await driver.start(spec)
    assert caught.value.code == "cli_failed_to_start" and not processes_of(spec.folder)


async def test_options_reach_the_model(driver: SdkDriver, tmp_path: Path, model: ServedModel) -> None:
    spec = new_spec(tmp_path, model="claude-other-1", system_prompt="be brief", disallowed_tools=("Bash",))
    async with started(driver, spec) as agent:
        await turn(agent, "hello")
    body = last_request(model)
    assert body["model"] == "claude-other-1" and "be brief" in json.dumps(body["system"])
    assert not {t["name"] for t in body["tools"]} & {"Bash", "SendMessage"}


async def test_without_the_sdk_it_is_said_how_to_install_it(
    driver: SdkDriver, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "portico_claude_agent_sdk.agent", None)
    for call in (driver.check(), driver.start(spec)):
        with pytest.raises(AgentUnavailable, match=r"pip install claude-agent-sdk") as caught:
            await call
        assert caught.value.code == "sdk_not_installed"
