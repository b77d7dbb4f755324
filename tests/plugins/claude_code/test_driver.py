"""The driver with the real CLI, before the scripted model."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from portico.core.agent import AgentSpec, Decision, Turn
from portico.core.errors import AgentFailed, AgentUnavailable, Conflict, InvalidRequest
from portico.core.events import Content
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from portico.plugins.claude_code.driver import ClaudeDriver
from portico.plugins.demo.model_server import ServedModel, serve_model
from tests.support.agents import gone_soon, live, processes_of, processes_with, real_cli, unique_seconds
from tests.support.claude import (
    Event,
    conversation,
    driving,
    kill,
    kinds,
    new_spec,
    own_turn,
    script,
    started,
    streamed,
    text,
    tool,
    turn,
)
from tests.support.limits import HANG_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


@dataclass(frozen=True, slots=True)
class Shared:
    """An agent for the tests that leave it idle, and as it was."""

    agent: ClaudeAgent
    spec: AgentSpec
    model: ServedModel


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    real_cli()
    folder = tmp_path_factory.mktemp("shared")
    spec = new_spec(folder)
    async with (
        serve_model() as model,
        driving(folder, api_key="test-key", base_url=model.url) as driver,
        started(driver, spec) as agent,
    ):
        yield Shared(agent, spec, model)


def new_turn(content: Content) -> Turn:
    """A turn with an id of its own: the CLI runs none twice, and the agent is shared."""
    return Turn(uuid4().hex, content)


async def test_an_answer_comes_word_by_word_and_then_whole(shared: Shared) -> None:
    events = await turn(shared.agent, script({"think": "hm hm", "say": "one two three", "usage": {"output_tokens": 7}}))
    assert [e["content"] for e in events if e["type"] == "delta"] == ["one", " two", " three"]
    assert [e["content"] for e in events if e["type"] == "thinking"] == ["hm", " hm"]
    thought, said = [e for e in events if e["type"] == "message"]
    assert (thought["index"], said["index"]) == (0, 1)
    assert said["content"] == [{"type": "text", "text": "one two three"}]
    assert {e["index"] for e in events if e["type"] == "delta"} == {1}
    assert {e["message_id"] for e in events if "message_id" in e} == {said["message_id"]}
    end = events[-1]
    assert (end["type"], end["stop_reason"]) == ("complete", "end_turn")
    assert end["usage"]["output_tokens"] == 7
    assert 0 < end["cost_usd"] < 0.01


async def test_cost_and_usage_are_of_one_turn_also_after_a_restart(driver: ClaudeDriver, spec: AgentSpec) -> None:
    costs = []
    for _ in range(2):
        async with started(driver, spec) as agent:
            for _ in range(2):
                events = await turn(agent, script({"say": "x", "usage": {"output_tokens": 100}}))
                costs.append(events[-1]["cost_usd"])
                assert events[-1]["usage"]["output_tokens"] == 100
    assert costs == pytest.approx([costs[0]] * 4)


async def test_text_of_a_user_is_text_whatever_it_looks_like(shared: Shared, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    for words in ("/clear", f"@{secret}", "--version", "line\nline", "\ud83d half", "\u2028 x", "!ls"):
        events = await turn(shared.agent, words)
        assert events[-1]["stop_reason"] == "end_turn", words
        assert "You said" in text(events), words
        assert "the secret" not in text(events)


async def test_content_that_would_kill_the_cli_is_refused_before(shared: Shared) -> None:
    for content in ([], [{"type": "text"}], [{"type": "bogus"}], [{"type": "image", "source": {}}], 7, [7]):
        with pytest.raises(InvalidRequest) as caught:
            await turn(shared.agent, content)  # type: ignore[arg-type]
        assert caught.value.code == "invalid_content"
    events = await turn(shared.agent, [{"type": "text", "text": "still here"}])
    assert "still here" in text(events)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_tool_runs_only_where_it_is_allowed(shared: Shared, allowed: bool) -> None:
    name = f"made-{allowed}.txt"
    write = tool("Write", file_path=name, content="made")
    events: list[Event] = []
    async for event in shared.agent.run(new_turn(script({"tool": write}, {"say": "over"}))):
        events.append(dict(event))
        if event["type"] == "permission_request":
            assert not (shared.spec.cwd / name).exists()
            decision = Decision("allow") if allowed else Decision("deny", message="rather not")
            await shared.agent.answer(event["request_id"], decision)
            with pytest.raises(Conflict, match="No permission request"):
                await shared.agent.answer(event["request_id"], decision)
    assert (shared.spec.cwd / name).exists() is allowed
    order = [kind for kind in kinds(events) if kind in ("tool_use", "permission_request", "tool_result", "complete")]
    assert order == ["tool_use", "permission_request", "tool_result", "complete"]
    asked = next(e for e in events if e["type"] == "permission_request")
    used = next(e for e in events if e["type"] == "tool_use")
    result = next(e for e in events if e["type"] == "tool_result")
    assert used["tool_use_id"] == asked["tool_use_id"] == result["tool_use_id"]
    assert (used["tool_name"], used["input"]) == ("Write", {"file_path": name, "content": "made"})
    assert result["is_error"] is not allowed
    assert allowed or result["content"] == "rather not"
    assert events[-1]["stop_reason"] == "end_turn"


async def test_an_allowed_tool_gets_the_input_that_the_user_has_changed(shared: Shared) -> None:
    write = tool("Write", file_path="changed.txt", content="a")
    async for event in shared.agent.run(new_turn(script({"tool": write}))):
        if event["type"] == "permission_request":
            changed = {**event["input"], "content": "changed"}
            await shared.agent.answer(event["request_id"], Decision("allow", updated_input=changed))
    assert (shared.spec.cwd / "changed.txt").read_text() == "changed"


async def test_a_remembered_answer_is_not_asked_for_again(agent: ClaudeAgent, spec: AgentSpec) -> None:
    asked = []
    for name in ("a", "b"):
        write = tool("Write", file_path=f"{name}.txt", content=name)
        async for event in agent.run(Turn(name, script({"tool": write}))):
            if event["type"] == "permission_request":
                asked.append(event["tool_name"])
                await agent.answer(event["request_id"], Decision("allow", remember=True))
    assert asked == ["Write"]
    assert (spec.cwd / "b.txt").exists()
    assert not (spec.cwd / ".claude").exists()


@pytest.mark.parametrize("step", [{"words": 500, "gap_ms": 20}, {"stall": 1, "say": "one two"}])
async def test_an_interrupted_turn_ends_and_the_agent_goes_on(shared: Shared, step: dict[str, Any]) -> None:
    events: list[Event] = []
    with anyio.fail_after(HANG_SECONDS):
        async for event in shared.agent.run(new_turn(script(step))):
            events.append(dict(event))
            if kinds(events).count("delta") == 1 and event["type"] == "delta":
                await shared.agent.interrupt()
    assert events[-1]["stop_reason"] == "interrupted"
    assert "error" not in kinds(events)
    assert "interrupted by user" not in json.dumps(events)
    assert "hello again" in text(await turn(shared.agent, "hello again"))


async def test_an_interrupt_right_behind_the_query_stops_it(shared: Shared) -> None:
    await turn(shared.agent, "warm up")
    for _ in range(5):
        events: list[Event] = []
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(HANG_SECONDS):
                run = shared.agent.run(new_turn(script({"words": 500, "gap_ms": 20})))
                tasks.start_soon(_interrupt_once_busy, shared.agent)
                async for event in run:
                    events.append(dict(event))
        assert events[-1]["stop_reason"] == "interrupted"


async def _interrupt_once_busy(agent: ClaudeAgent) -> None:
    await anyio.lowlevel.checkpoint()  # `run` has sent its line by then, or is about to
    await agent.interrupt()


async def test_an_interrupt_withdraws_what_is_asked(shared: Shared) -> None:
    events: list[Event] = []
    async for event in shared.agent.run(
        new_turn(script({"tool": tool("Write", file_path="withdrawn.txt", content="a")}))
    ):
        events.append(dict(event))
        if event["type"] == "permission_request":
            await shared.agent.interrupt()
    asked = next(e for e in events if e["type"] == "permission_request")
    withdrawn = next(e for e in events if e["type"] == "permission_withdrawn")
    assert withdrawn["request_id"] == asked["request_id"]
    assert events[-1]["stop_reason"] == "interrupted"
    assert not (shared.spec.cwd / "withdrawn.txt").exists()


async def test_an_interrupt_of_an_idle_agent_changes_nothing(shared: Shared) -> None:
    await shared.agent.interrupt()
    await turn(shared.agent, "hello")
    await shared.agent.interrupt()
    assert (await turn(shared.agent, "hello"))[-1]["stop_reason"] == "end_turn"


async def test_a_turn_that_is_left_does_not_show_in_the_next_one(shared: Shared) -> None:
    with anyio.fail_after(HANG_SECONDS):
        async for event in shared.agent.run(new_turn(script({"say": "abandoned", "words": 500, "gap_ms": 20}))):
            if event["type"] == "delta":
                break
        await shared.agent.interrupt()
        events = await turn(shared.agent, script({"say": "fresh"}))
    assert streamed(events) == text(events) == "fresh"


async def _turns(agent: ClaudeAgent, first: str, steered: list[str], when: str) -> dict[str, list[Event]]:
    """Run a turn, and hand it messages at its first event of the kind ``when``; then do with them as is agreed.

    The turn is "t" in the result, the messages are "s0", "s1" ...
    """
    seen: dict[str, list[Event]] = {}
    main, waiting = new_turn(first), [new_turn(content) for content in steered]
    names = {main.turn_id: "t"} | {message.turn_id: f"s{number}" for number, message in enumerate(waiting)}
    todo = [main]
    with anyio.fail_after(HANG_SECONDS):
        while todo:
            running = todo.pop(0)
            events = seen[names[running.turn_id]] = []
            async for event in agent.run(running):
                events.append(dict(event))
                if event["type"] == when and running is main and not todo:
                    for message in waiting:
                        await agent.steer(message)
                    todo = waiting
                if event["type"] == "notice" and event["name"] == "steered":
                    taken = event["detail"]["turn_id"]
                    todo = [turn for turn in todo if turn.turn_id != taken]
                    events[-1]["detail"] = {"turn_id": names[taken]}
    return seen


async def test_a_message_steers_a_turn_that_calls_a_tool(shared: Shared) -> None:
    first = script({"say": "I look.", "tool": tool("Bash", command="sleep 0.5")}, {"say": "unsteered"})
    seen = await _turns(shared.agent, first, [script({"say": "as you wish"})], "tool_use")
    assert list(seen) == ["t"]
    assert text(seen["t"]) == "I look.as you wish"
    order = [kind for kind in kinds(seen["t"]) if kind in ("tool_result", "notice", "complete")]
    assert order == ["tool_result", "notice", "complete"]
    assert "hello" in text(await turn(shared.agent, "hello"))


@pytest.mark.parametrize("number", [1, 3])
async def test_messages_that_come_too_late_to_steer_are_the_next_turn(shared: Shared, number: int) -> None:
    late = [script({"say": f"late {count}"}) for count in range(number)]
    seen = await _turns(shared.agent, script({"say": "one two three", "gap_ms": 100}), late, "delta")
    assert list(seen) == ["t", "s0"]
    assert text(seen["t"]) == "one two three" and "notice" not in kinds(seen["t"])
    assert text(seen["s0"]) == "late 0"
    assert [e["detail"]["turn_id"] for e in seen["s0"] if e["type"] == "notice"] == [f"s{n}" for n in range(1, number)]
    assert all(kinds(events)[-1] == "complete" for events in seen.values())
    assert all(json.dumps(message)[1:-1] in conversation(shared.model) for message in late)
    assert "hello" in text(await turn(shared.agent, "hello"))


async def test_a_message_for_a_turn_that_is_interrupted_is_the_next_turn(shared: Shared) -> None:
    events: list[Event] = []
    steered = new_turn(script({"say": "after it"}))
    command = tool("Bash", command="sleep 20")
    with anyio.fail_after(HANG_SECONDS):
        async for event in shared.agent.run(new_turn(script({"tool": command}, {"say": "never"}))):
            events.append(dict(event))
            if event["type"] == "tool_use":
                await shared.agent.steer(steered)
                await shared.agent.interrupt()
    assert events[-1]["stop_reason"] == "interrupted" and "notice" not in kinds(events)
    assert text(await turn(shared.agent, steered)) == "after it"


async def test_a_steered_turn_of_its_own_can_be_interrupted(shared: Shared) -> None:
    steered = new_turn(script({"words": 500, "gap_ms": 20}))
    async for event in shared.agent.run(new_turn(script({"say": "one two", "gap_ms": 100}))):
        if event["type"] == "delta" and event["content"] == "one":
            await shared.agent.steer(steered)
    events: list[Event] = []
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_interrupt_once_busy, shared.agent)
            async for event in shared.agent.run(steered):
                events.append(dict(event))
    assert events[-1]["stop_reason"] == "interrupted"
    assert "hello" in text(await turn(shared.agent, "hello"))


async def test_a_message_that_the_agent_died_with_is_run_by_the_next(driver: ClaudeDriver, spec: AgentSpec) -> None:
    steered = new_turn(script({"say": "not lost"}))
    async with started(driver, spec) as agent:
        await turn(agent, "hello")
        with pytest.raises(AgentFailed), anyio.fail_after(HANG_SECONDS):
            async for event in agent.run(new_turn(script({"tool": tool("Bash", command="sleep 20")}))):
                if event["type"] == "tool_use":
                    await agent.steer(steered)
                    kill(spec)
    async with started(driver, spec) as agent:
        assert text(await turn(agent, steered)) == "not lost"


async def test_a_steered_message_that_nobody_runs_does_not_show_in_another_turn(shared: Shared) -> None:
    async for event in shared.agent.run(new_turn(script({"say": "one two", "gap_ms": 100}))):
        if event["type"] == "delta" and event["content"] == "one":
            await shared.agent.steer(new_turn(script({"say": "forgotten"})))
    assert text(await turn(shared.agent, script({"say": "fresh"}))) == "fresh"


async def test_content_that_can_not_steer_is_refused_and_the_turn_goes_on(shared: Shared) -> None:
    kept = []
    async for event in shared.agent.run(new_turn(script({"say": "one two", "gap_ms": 50}))):
        kept.append(dict(event))
        if len(kept) == 1:
            with pytest.raises(InvalidRequest):
                await shared.agent.steer(new_turn([{"type": "bogus"}]))
    assert text(kept) == "one two"


async def test_an_error_of_the_api_has_a_code_and_the_agent_goes_on(model: ServedModel, tmp_path: Path) -> None:
    codes = {
        413: "request_too_large",  # the first: a conversation that goes on would be compacted
        400: "invalid_request",
        401: "authentication_failed",
        403: "authentication_failed",
        404: "model_not_found",
        429: "rate_limited",
        500: "api_error",
        529: "overloaded",
    }
    environment = {"CLAUDE_CODE_MAX_RETRIES": "1"}
    async with (
        driving(tmp_path, api_key="k", base_url=model.url, environment=environment) as driver,
        started(driver, new_spec(tmp_path)) as agent,
    ):
        for status, code in codes.items():
            events = await turn(agent, script({"error": status}))
            notices = [e["name"] for e in events if e["type"] == "notice"]
            assert notices == ["api_retry"] * len(notices), status
            assert kinds(events[-2:]) == ["error", "complete"], status
            assert set(kinds(events[:-2])) <= {"model", "notice"}, status
            assert events[-2]["code"] == code, status
            assert events[-1]["stop_reason"] == "error", status
            assert (await turn(agent, "hello"))[-1]["stop_reason"] == "end_turn", status


async def test_without_credentials_the_error_says_which_settings_to_give(model: ServedModel, tmp_path: Path) -> None:
    async with driving(tmp_path, base_url=model.url) as driver:
        await driver.check()
        async with started(driver, new_spec(tmp_path)) as agent:
            events = await turn(agent, "hello")
    assert kinds(events) == ["model", "error", "complete"]
    assert events[1]["code"] == "not_logged_in"
    assert "ANTHROPIC_API_KEY" in events[1]["error"] and "CLAUDE_CODE_OAUTH_TOKEN" in events[1]["error"]


async def test_a_stream_that_is_cut_is_replaced_by_what_comes_after(shared: Shared) -> None:
    events = await turn(shared.agent, script({"say": "one two three four", "gap_ms": 50, "cut": 2, "times": 1}))
    shown: dict[tuple[str, int], str] = {}
    for event in events:
        if event["type"] == "delta":
            key = (event["message_id"], event["index"])
            shown[key] = shown.get(key, "") + event["content"]
        elif event["type"] == "message":
            for key in [k for k in shown if k[0] == event["message_id"] and k[1] >= event["index"]]:
                del shown[key]
            for offset, block in enumerate(event["content"]):
                shown[event["message_id"], event["index"] + offset] = block["text"]
    assert list(shown.values()) == ["one two three four"]


async def test_a_reply_cut_by_max_tokens_goes_on_and_no_query_is_made_up(shared: Shared) -> None:
    events = await turn(shared.agent, script({"say": "part one, ", "stop_reason": "max_tokens"}, {"say": "part two"}))
    assert text(events) == streamed(events) == "part one, part two"
    assert "Output token limit" not in json.dumps(events)
    assert events[-1]["stop_reason"] == "end_turn"


async def test_a_limit_of_turns_ends_a_turn_without_an_error(driver: ClaudeDriver, tmp_path: Path) -> None:
    async with started(driver, new_spec(tmp_path, max_turns=1)) as agent:
        events = await turn(agent, script({"tool": tool("Bash", command="echo x")}, {"say": "never"}))
    assert events[-1]["stop_reason"] == "max_turns"
    assert "error" not in kinds(events) and "never" not in text(events)


async def test_a_reply_of_5_megabytes_arrives_whole(agent: ClaudeAgent) -> None:
    events = await turn(agent, script({"size": 5_000_000}))
    assert len(streamed(events)) == 5_000_000
    assert text(events) == streamed(events)


async def test_the_end_of_a_background_task_is_a_turn_of_its_own(agent: ClaudeAgent) -> None:
    command = tool("Bash", command="sleep 0.5; echo woken", run_in_background=True)
    first = await turn(agent, script({"tool": command}, {"say": "it runs"}, {"say": "it is over"}))
    assert text(first) == "it runs"
    asides: list[Event] = []
    own = await own_turn(agent, asides)
    (began,) = [e for e in first if e["type"] == "task"]
    assert (began["state"], began["kind"], began["description"]) == ("started", "shell", "sleep 0.5; echo woken")
    assert began["tool_use_id"] == next(e["tool_use_id"] for e in first if e["type"] == "tool_use")
    assert [(e["task_id"], e["state"], e["outcome"]) for e in asides] == [(began["task_id"], "ended", "completed")]
    assert "sleep 0.5" in own.content
    events = await turn(agent, own)
    assert text(events) == "it is over"
    assert events[-1]["stop_reason"] == "end_turn"
    assert "hello" in text(await turn(agent, "hello"))


async def test_a_query_into_a_turn_of_the_agents_own_gets_its_answer(agent: ClaudeAgent, model: ServedModel) -> None:
    command = tool("Bash", command="sleep 0.3", run_in_background=True)
    await turn(agent, script({"tool": command}, {"say": "it runs"}, {"say": "one two three", "gap_ms": 100}))
    await own_turn(agent)
    events = await turn(agent, script({"say": "the answer"}))
    assert text(events) == "one two threethe answer"
    assert kinds(events).count("complete") == 1
    with pytest.raises(TimeoutError), anyio.fail_after(0.3):
        await agent.watch()


async def release(model: ServedModel) -> None:
    """Lets each reply that stalls go on, those that have yet to come too."""
    while True:
        model.model.release()
        await anyio.sleep(0.02)


async def test_a_subagent_in_the_background_can_ask_after_the_turn(
    agent: ClaudeAgent, spec: AgentSpec, model: ServedModel
) -> None:
    prompt = script({"say": "I write.", "stall": 0, "tool": tool("Write", file_path="sub.txt", content="s")})
    task = tool("Task", description="d", subagent_type="general-purpose", prompt=prompt)
    first = await turn(agent, script({"tool": task}, {"say": "it works"}, {"say": "it has worked"}))
    assert first[-1]["type"] == "complete" and "permission_request" not in kinds(first)
    spawned = next(e for e in first if e["type"] == "tool_use")
    events: list[Event] = []
    asides: list[Event] = []
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release, model)
            while "it has worked" not in text(events):
                async for event in agent.run(await own_turn(agent, asides)):
                    events.append(dict(event))
                    if event["type"] == "permission_request":
                        await agent.answer(event["request_id"], Decision("allow"))
            tasks.cancel_scope.cancel()
    asked = next(e for e in events if e["type"] == "permission_request")
    assert asked["parent_tool_use_id"] == spawned["tool_use_id"]
    assert (spec.cwd / "sub.txt").exists()
    assert "I write." in text(first + asides + events)


async def test_an_interrupt_denies_what_a_subagent_in_the_background_asks(
    agent: ClaudeAgent, spec: AgentSpec, model: ServedModel
) -> None:
    prompt = script({"say": "I write.", "stall": 0, "tool": tool("Write", file_path="sub.txt", content="s")})
    task = tool("Task", description="d", subagent_type="general-purpose", prompt=prompt)
    await turn(agent, script({"tool": task}, {"say": "it works"}, {"say": "it has ended"}))
    events: list[Event] = []
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release, model)
            async for event in agent.run(await own_turn(agent)):
                events.append(dict(event))
                if event["type"] == "permission_request":
                    await agent.interrupt()
            tasks.cancel_scope.cancel()
        assert events[-1]["stop_reason"] == "interrupted"
        assert "hello" in text(await turn(agent, "hello"))
    assert not (spec.cwd / "sub.txt").exists()


async def test_an_agent_sees_nothing_of_the_servers_environment(
    model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "not yours")
    spec = new_spec(tmp_path, permission_mode="bypassPermissions")
    settings = {"max_tokens": 1234, "model": "claude-test-1", "environment": {"GIVEN": "to agents"}}
    look = tool("Bash", command="env; stat -c '%a %n' $XDG_RUNTIME_DIR; ls $XDG_RUNTIME_DIR")
    async with (
        driving(tmp_path, api_key="test-key", base_url=model.url, **settings) as driver,
        started(driver, spec) as agent,
    ):
        events = await turn(agent, script({"tool": look}))
    output = next(e["content"] for e in events if e["type"] == "tool_result")
    found = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    assert "SERVER_SECRET" not in output and "PYTEST_CURRENT_TEST" not in output
    assert found["GIVEN"] == "to agents"
    assert found["HOME"] == str(spec.folder / "home")
    assert found["TMPDIR"].startswith(str(spec.folder / "tmp"))
    assert len(found["XDG_RUNTIME_DIR"]) <= 80
    assert f"700 {found['XDG_RUNTIME_DIR']}" in output
    call = next(c for c in model.model.requests if c.body and "max_tokens" in c.body)
    assert (call.body["max_tokens"], call.body["model"]) == (1234, "claude-test-1")
    assert call.headers["x-api-key"] == "test-key"
    # A path that is too long would have put it where all sessions can reach it. CLI 2.1.330 makes none for a
    # plain user.
    assert "cc-socks" in output.splitlines() or os.geteuid() != 0
    runtime = Path(found["XDG_RUNTIME_DIR"])
    assert runtime == spec.folder / "run" or not await anyio.Path(runtime).exists()


async def test_other_sessions_are_out_of_reach(shared: Shared) -> None:
    await turn(shared.agent, "hello")
    tools = {t["name"] for call in shared.model.model.requests if call.body for t in call.body.get("tools", ())}
    assert "Bash" in tools and not tools & {"SendMessage", "ListAgents"}


async def test_an_agent_killed_between_turns_says_so_and_comes_back_with_its_memory(
    driver: ClaudeDriver, spec: AgentSpec, model: ServedModel
) -> None:
    async with started(driver, spec) as agent:
        await turn(agent, "remember the heron")
        kill(spec)
        with pytest.raises(AgentFailed) as caught, anyio.fail_after(HANG_SECONDS):
            await agent.watch()
        assert caught.value.code == "agent_exited"
        with pytest.raises(AgentFailed):
            await turn(agent, "anybody?")
    async with started(driver, spec) as agent:
        assert "what was it" in text(await turn(agent, "what was it"))
        assert processes_with(f"--resume={spec.agent_id}")  # at once, not by trying
        assert "remember the heron" in conversation(model)


@pytest.mark.parametrize("first", [True, False])
async def test_an_agent_killed_in_mid_turn_fails_that_turn_and_comes_back(
    driver: ClaudeDriver, spec: AgentSpec, model: ServedModel, first: bool
) -> None:
    async with started(driver, spec) as agent:
        if not first:
            await turn(agent, "remember the heron")
        with pytest.raises(AgentFailed) as caught, anyio.fail_after(HANG_SECONDS):
            async for event in agent.run(new_turn(script({"words": 500, "gap_ms": 20}))):
                if event["type"] == "delta" and processes_of(spec.folder):
                    kill(spec)
        assert caught.value.code == "agent_exited"
        assert "exit status" in caught.value.detail
    async with started(driver, spec) as agent:
        assert "are you back" in text(await turn(agent, "are you back"))
        assert first or "remember the heron" in conversation(model)


async def test_an_agent_killed_before_its_first_word_takes_the_same_id_again(
    driver: ClaudeDriver, spec: AgentSpec
) -> None:
    async with started(driver, spec):
        kill(spec)
    async with started(driver, spec) as agent:
        assert "hello" in text(await turn(agent, "hello"))


async def test_a_transcript_without_a_conversation_does_not_lock_the_session_out(
    driver: ClaudeDriver, spec: AgentSpec
) -> None:
    folder = spec.folder / "config" / "projects" / "anything"
    folder.mkdir(parents=True)
    (folder / f"{spec.agent_id}.jsonl").write_text("torn\n")
    for _ in range(2):
        async with started(driver, spec) as agent:
            events = await turn(agent, "hello")
            assert "hello" in text(events) and "error" not in kinds(events)


async def test_options_that_the_cli_refuses_are_told_in_its_own_words(driver: ClaudeDriver, tmp_path: Path) -> None:
    async with started(driver, new_spec(tmp_path, permission_mode="nonsense")) as agent:
        with pytest.raises(AgentUnavailable) as caught:
            await turn(agent, "hello")
    assert caught.value.code == "cli_failed_to_start"
    assert "nonsense" in caught.value.detail


async def test_options_reach_the_model(driver: ClaudeDriver, tmp_path: Path, model: ServedModel) -> None:
    spec = new_spec(
        tmp_path,
        model="claude-other-1",
        system_prompt="--version",
        append_system_prompt="-x\nsecond line",
        disallowed_tools=("WebFetch", "Bash"),
        permission_mode="plan",
        mcp_servers={"none": {"command": "false"}},
    )
    async with started(driver, spec) as agent:
        await turn(agent, "hello")
    body = model.model.requests[-1].body
    assert body["model"] == "claude-other-1"
    assert "--version" in json.dumps(body["system"]) and "-x\\nsecond line" in json.dumps(body["system"])
    assert not {t["name"] for t in body["tools"]} & {"Bash", "WebFetch", "SendMessage"}


async def test_a_closed_agent_leaves_nothing_behind_and_says_so(driver: ClaudeDriver, spec: AgentSpec) -> None:
    agent = await driver.start(spec)
    seconds = unique_seconds()
    command = tool("Bash", command=f"setsid sleep {seconds} & sleep {seconds}")
    events: list[Event] = []

    async def run() -> None:
        async for event in agent.run(new_turn(script({"tool": command}))):
            events.append(dict(event))
            if event["type"] == "permission_request":
                await agent.answer(event["request_id"], Decision("allow"))

    with anyio.fail_after(HANG_SECONDS):
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


async def test_a_close_that_is_cancelled_already_kills_at_once(driver: ClaudeDriver, spec: AgentSpec) -> None:
    agent = await driver.start(spec)
    seconds = unique_seconds()
    command = tool("Bash", command=f"setsid sleep {seconds} & sleep {seconds}")

    async def run() -> None:
        async for event in agent.run(new_turn(script({"tool": command}))):
            if event["type"] == "permission_request":
                await agent.answer(event["request_id"], Decision("allow"))

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expect_the_end, run)
            while len(processes_with(seconds)) < 2:
                await anyio.sleep(0.05)
            left = processes_of(spec.folder)
            with anyio.CancelScope(shield=True) as scope:
                scope.cancel()
                await agent.close()
            assert not live(left) and not live(processes_with(seconds))


async def _expect_the_end(run: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(AgentFailed) as caught:
        await run()
    assert caught.value.code == "agent_closed"


async def test_closing_the_driver_ends_agents_that_nobody_closed(
    model: ServedModel, tmp_path: Path, spec: AgentSpec
) -> None:
    async with driving(tmp_path, api_key="k", base_url=model.url) as driver:
        agent = await driver.start(spec)
        await turn(agent, "hello")
        left = processes_of(spec.folder)
    assert left and gone_soon(left)
    await agent.close()
