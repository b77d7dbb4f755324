"""An agent with a CLI that misbehaves in ways that the real one can't be made to."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from portico_claude_agent_sdk import agent as agent_module
from sdk_driving import driving, kinds, new_spec, processes_of, started, text, turn

from portico import Agent, AgentFailed, AgentUnavailable, Turn

pytestmark = [pytest.mark.anyio, pytest.mark.fake_agent, pytest.mark.long]

# Prints the lines that a message lists (a number: that many bytes), and answers control requests, except those named in
# `flaws`. Further flaws: "stubborn" (it never leaves by itself) and "die" (at a request that it doesn't answer).
_FAKE = """#!{python} -S
import json, signal, sys, time
if "--version" in sys.argv:
    print("2.1.330 (Claude Code)")
    sys.exit()
if "stubborn" in {flaws}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    heard = json.loads(line)
    if heard["type"] == "control_request" and heard["request"]["subtype"] not in {flaws}:
        response = {{"subtype": "success", "request_id": heard["request_id"]}}
        print(json.dumps({{"type": "control_response", "response": response}}), flush=True)
    elif heard["type"] == "control_request" and "die" in {flaws}:
        sys.exit(0)
    elif heard["type"] == "user":
        for said in json.loads(heard["message"]["content"]):
            said = "x" * said if isinstance(said, int) else json.dumps(said).replace("UUID", heard["uuid"])
            print(said, flush=True)
if "stubborn" in {flaws}:
    time.sleep(3600)
"""

INIT = {"type": "system", "subtype": "init", "user_message_uuids": ["UUID"]}
RESULT = {"type": "result", "is_error": False, "user_message_uuids": ["UUID"], "subtype": "success",
          "duration_ms": 1, "duration_api_ms": 1, "num_turns": 1, "session_id": "s"}  # fmt: skip


def said(block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": "m", "model": "claude-x", "content": [block]}}


WORDS = said({"type": "text", "text": "hello"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def fake(folder: Path, *flaws: str) -> AsyncIterator[Agent]:
    path = folder / "claude"
    path.write_text(_FAKE.format(python=sys.executable, flaws=list(flaws)))
    path.chmod(0o755)
    spec = new_spec(folder)
    async with driving(folder, cli_path=path) as driver:
        await driver.check()
        async with started(driver, spec) as agent:
            yield agent
        assert not processes_of(spec.folder)


async def test_a_message_that_the_sdk_can_not_read_is_left_out_and_the_turn_goes_on(tmp_path: Path) -> None:
    unreadable = [said({"type": "thinking", "thinking": "unsigned"}), {"type": "rate_limit_event"}, {"type": "system"}]
    async with fake(tmp_path) as agent:
        events = await turn(agent, json.dumps([INIT, *unreadable, WORDS, {"type": "unheard_of"}, RESULT]))
        assert kinds(events) == ["message", "complete"] and text(events) == "hello"


async def test_a_request_with_a_suggestion_of_an_unknown_kind_is_asked(tmp_path: Path) -> None:
    known = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    request = {"subtype": "can_use_tool", "tool_name": "Write", "input": {}, "tool_use_id": "u",
               "permission_suggestions": [{"type": "unheard_of"}, known]}  # fmt: skip
    use = said({"type": "tool_use", "id": "u", "name": "Write", "input": {}})
    asking = json.dumps([INIT, use, {"type": "control_request", "request_id": "r", "request": request}])
    async with fake(tmp_path) as agent:
        async for event in agent.run(Turn("t", asking)):
            if event["type"] == "permission_request":
                assert event["suggestions"] == [known]
                break
        else:
            raise AssertionError("nothing was asked")


async def test_a_line_that_is_too_long_is_an_error_and_the_session_goes_on(tmp_path: Path) -> None:
    async with fake(tmp_path) as agent:
        events = await turn(agent, json.dumps([INIT, 40 << 20, WORDS, RESULT]))
        assert kinds(events) == ["error", "message", "complete"]
        assert events[0]["code"] == "agent_line_too_long"
        completed = {"type": "command_lifecycle", "command_uuid": "UUID", "state": "completed"}
        assert kinds(await turn(agent, json.dumps([INIT, 40 << 20, completed]))) == ["error", "complete"]
        assert text(await turn(agent, json.dumps([INIT, WORDS, RESULT]))) == "hello"


async def test_what_the_sdk_fails_at_ends_the_agent_at_once(tmp_path: Path) -> None:
    async with fake(tmp_path, "stubborn") as agent:
        with pytest.raises(AgentFailed, match="request_id") as caught:
            await turn(agent, json.dumps([INIT, {"type": "control_request"}]))
        assert caught.value.code == "internal_error"


async def test_a_cli_that_ignores_all_that_asks_it_to_leave_is_killed(tmp_path: Path) -> None:
    async with fake(tmp_path, "stubborn") as agent:
        await turn(agent, json.dumps([INIT, WORDS, RESULT]))


async def test_a_cli_that_does_not_answer_at_its_start_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "START_TIME", 0.5)
    with pytest.raises(AgentUnavailable) as caught, anyio.fail_after(120):
        async with fake(tmp_path, "initialize"):
            raise AssertionError("started")
    assert caught.value.code == "agent_stalled"
    assert not processes_of(tmp_path / "agents")


async def test_a_cli_that_answers_no_request_any_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "CONTROL_TIME", 0.3)
    async with fake(tmp_path, "set_permission_mode") as agent:
        with pytest.raises(AgentFailed) as caught:
            await agent.configure(new_spec(tmp_path).options)
    assert caught.value.code == "agent_stalled"


async def test_a_request_ends_with_the_cli(tmp_path: Path) -> None:
    async with fake(tmp_path, "set_permission_mode", "die") as agent:
        await turn(agent, json.dumps([INIT, WORDS, RESULT]))
        with pytest.raises(AgentFailed) as caught:
            await agent.configure(new_spec(tmp_path).options)
        assert caught.value.code == "agent_exited"
        with pytest.raises(AgentFailed, match="exit status 0"):
            await agent.watch()
