"""Retractions, broken replies and failures of the agent, as clients hear of them: the real CLI, the scripted model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Turn
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from portico.plugins.demo.model_server import ServedModel
from tests.support.claude import Event, driving, new_spec, script, started, streamed, text, tool, turn
from tests.support.limits import HANG_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

REFUSED = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "cyber", "explanation": "No."}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.fixture
async def agent(model: ServedModel, tmp_path: Path) -> AsyncIterator[ClaudeAgent]:
    """An agent that tries again once."""
    settings: dict[str, Any] = {"api_key": "test-key", "base_url": model.url}
    async with (
        driving(tmp_path, environment={"CLAUDE_CODE_MAX_RETRIES": "1"}, **settings) as driver,
        started(driver, new_spec(tmp_path)) as agent,
    ):
        yield agent


def notices(events: list[Event]) -> dict[str, Any]:
    return {e["name"]: e["detail"] for e in events if e["type"] == "notice" and e["name"] != "informational"}


def shown(events: list[Event]) -> str:
    """The text that stands in the end, where later messages replace earlier ones."""
    blocks: dict[tuple[str, int], str] = {}
    for event in events:
        if event["type"] == "message":
            key = event["message_id"], event["index"]
            blocks = {k: v for k, v in blocks.items() if k[0] != key[0] or k[1] < key[1]}
            blocks |= {(key[0], key[1] + n): block.get("text", "") for n, block in enumerate(event["content"])}
    return "|".join(filter(None, blocks.values()))


async def test_a_refused_reply_is_taken_back_and_another_model_answers(agent: ClaudeAgent) -> None:
    events = await turn(agent, script({"say": "one", **REFUSED}, {"say": "two", **REFUSED, "times": 1}))
    told = notices(events)
    assert told["refused"]["message_id"] == next(e["message_id"] for e in events if e["type"] == "message")
    assert told["refusal_fallback"] == {
        "model": "claude-opus-5-5",
        "fallback_model": "claude-opus-4-8",
        "category": "cyber",
        "explanation": "No.",
        "scope": "session",
    }
    void = [e for e in events if e["type"] == "message" and not e["content"]]
    first = [e["message_id"] for e in events if e["type"] == "delta" and e["content"] == "two"]
    assert [e["message_id"] for e in void] == first[:1]
    assert shown(events) == "one|two"
    # There is no third model: the turn fails, and its text is no advice for a terminal.
    (error,) = [e for e in events if e["type"] == "error"]
    assert error["code"] == "refusal"
    assert "declines" in error["error"] and "cyber: No." in error["error"]
    assert events[-1]["stop_reason"] == "refusal"


async def test_a_reply_that_the_limit_cuts_names_the_setting(agent: ClaudeAgent) -> None:
    events = await turn(agent, script({"say": "first ", "stop_reason": "max_tokens"}, {"say": "second"}))
    assert notices(events)["max_tokens"]["setting"] == "max_tokens"
    assert text(events) == "first second"

    write = tool("Write", file_path="a.txt", content="x" * 200)
    events = await turn(agent, script({"say": "I write", "tool": write, "stop_reason": "max_tokens"}, {"say": "No."}))
    (use,) = [e for e in events if e["type"] == "tool_use"]
    assert notices(events)["max_tokens"]["tool_use_id"] == use["tool_use_id"]

    events = await turn(agent, script({"say": "a", "stop_reason": "model_context_window_exceeded"}, {"say": "b"}))
    assert "context_window" in notices(events) and "max_tokens" not in notices(events)


async def test_a_reply_of_a_subagent_that_the_limit_cuts_names_its_speaker(agent: ClaudeAgent) -> None:
    write = tool("Write", file_path="a.txt", content="x" * 200)
    cut = {"stop_reason": "max_tokens"}
    task = script({"tool": write, **cut}, {"say": "half", **cut}, {"say": "whole"})
    use = tool("Agent", description="x", subagent_type="general-purpose", run_in_background=False, prompt=task)
    events = await turn(agent, script({"tool": use}, {"say": "all"}))
    (written,) = [e for e in events if e["type"] == "tool_use" and e["tool_name"] == "Write"]
    first, second = [e["detail"] for e in events if e["type"] == "notice" and e["name"] == "max_tokens"]
    for detail in (first, second):
        assert (detail["setting"], detail["subagent"]) == ("max_tokens", "general-purpose")
        assert detail["parent_tool_use_id"] == written["parent_tool_use_id"]
    assert first["tool_use_id"] == written["tool_use_id"] and "tool_use_id" not in second


async def test_an_image_that_is_taken_out_is_told(agent: ClaudeAgent) -> None:
    refuse = {"say": "I see.", "error": 400, "error_text": "Could not process image", "times": 1}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    events = await turn(agent, [{"type": "text", "text": script(refuse)}, image])
    assert notices(events) == {"media_removed": {"media": "image", "reason": "unprocessable"}}
    assert events[-1]["stop_reason"] == "end_turn"


async def test_a_reply_that_breaks_off_is_told_and_its_rest_taken_back(agent: ClaudeAgent) -> None:
    broken = {"think": "I think a lot", "say": "one two three", "cut": 7, "gap_ms": 20, "times": 1}
    events = await turn(agent, script(broken))
    assert notices(events)["reply_incomplete"] == {"reason": "connection_failed"}
    assert streamed(events).count("one") == 2
    assert shown(events) == "one two three"

    tools = [tool("Bash", command="echo 1"), tool("Bash", command="echo 2")]
    events = await turn(agent, script({"say": "one two", "tool": tools, "cut": 4, "gap_ms": 20}, {"say": "Done."}))
    assert notices(events)["reply_incomplete"] == {"reason": "connection_failed"}
    assert events[-1]["stop_reason"] == "end_turn"


async def test_summing_up_and_clearing_are_told(agent: ClaudeAgent) -> None:
    await turn(agent, script({"say": "hello"}))
    events = await turn(agent, Turn("compact", "/compact", commands=True))
    assert [name for name in notices(events) if name.startswith("comp")] == ["compacting", "compacted"]
    assert notices(events)["compacted"].keys() == {"trigger", "pre_tokens", "post_tokens", "duration_ms"}
    events = await turn(agent, Turn("clear", "/clear", commands=True))
    assert notices(events) == {"cleared": {"reason": "clear"}}


async def test_an_mcp_server_that_fails_is_told_once(model: ServedModel, tmp_path: Path) -> None:
    servers = {"dead": {"command": "/nonexistent/program"}}
    async with (
        driving(tmp_path, api_key="k", base_url=model.url) as driver,
        started(driver, new_spec(tmp_path, mcp_servers=servers)) as agent,
    ):
        first = await turn(agent, script({"say": "hi"}))
        second = await turn(agent, script({"say": "hi"}))
    assert notices(first) == {"mcp_server_failed": {"server": "dead", "status": "failed"}}
    assert notices(second) == {}


POOR = "Your credit balance is too low to access the Anthropic API."
FAILURES: list[tuple[dict[str, Any], str, str]] = [
    ({"error": 400, "error_text": "prompt is too long: 3 tokens > 2 maximum"}, "prompt_too_long", "new session"),
    (
        {"error": 400, "error_text": "Your credit balance is too low."},
        "billing",
        "operator",
    ),
    ({"error": 402, "error_type": "billing_error", "error_text": "pay"}, "billing", "operator"),
    ({"error": 401, "headers": {"x-should-retry": "false"}}, "authentication_failed", "operator"),
    ({"error": 404, "error_text": "model: nonsense"}, "model_not_found", "claude-opus-5-5"),
    ({"error": 413}, "request_too_large", "new session"),
    ({"error": 400, "error_text": "messages.1: a bad thing"}, "invalid_request", "messages.1: a bad thing"),
    ({"error": 400, "error_text": "The PDF specified is password protected."}, "media_refused", "another form"),
    ({"error": 500, "error_text": "boom"}, "api_error", "boom"),
    ({"error": 529}, "overloaded", "again"),
    ({"cut": 0}, "api_unreachable", "again"),
]
TERMINAL = ("esc", "/login", "/compact", "--model", "CLAUDE_CODE", "Run ", "API Error", "gateway (")
"""Words that only help a person at the CLI's terminal."""


async def test_errors_say_what_happened_to_one_who_has_no_terminal(agent: ClaudeAgent) -> None:
    for step, code, words in FAILURES:
        events = await turn(agent, script({"say": "one two", **step}))
        (error,) = [e for e in events if e["type"] == "error"]
        assert error["code"] == code, step
        assert words in error["error"] and not any(each in error["error"] for each in TERMINAL), error
        assert "api_error" not in notices(events), "the same is not said twice"
    for reason, code in (("max_tokens", "max_tokens"), ("model_context_window_exceeded", "context_window")):
        events = await turn(agent, script(*[{"say": "more", "stop_reason": reason}] * 6))
        assert [e["code"] for e in events if e["type"] == "error"] == [code]


async def test_a_subagent_has_a_name(agent: ClaudeAgent) -> None:
    task = script({"say": "I look", "tool": tool("Write", file_path="a.txt", content="x")}, {"say": "seen"})
    use = tool("Agent", description="x", subagent_type="general-purpose", run_in_background=False, prompt=task)
    events: list[Event] = []
    with anyio.fail_after(HANG_SECONDS):
        async for event in agent.run(Turn("t", script({"tool": use}, {"say": "all"}))):
            events.append(dict(event))
            if event["type"] == "permission_request":
                await agent.interrupt()
    theirs = [e for e in events if "parent_tool_use_id" in e]
    assert {e["type"] for e in theirs} >= {"tool_use", "permission_request"}
    assert {e["subagent"] for e in theirs} == {"general-purpose"}
