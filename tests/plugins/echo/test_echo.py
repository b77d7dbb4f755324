"""The echo of a query; tests/testing shows that the driver keeps the rules."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import AgentOptions, AgentSpec, Decision, Turn
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.echo.echo_agent import EchoAgent
from portico.plugins.echo.echo_script import MAX_SIZE, read_query
from tests.support.claude import Event, kinds, streamed, text, turn
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[EchoAgent]:
    options = AgentOptions(model="parrot", allowed_tools=("Read",), disallowed_tools=("Bash",))
    agent = await EchoDriver().start(AgentSpec("a", tmp_path, tmp_path, options))
    yield agent
    await agent.close()


def ask(tool: str) -> str:
    return json.dumps({"ask": {"tool_name": tool, "input": {"a": 1}}, "deltas": 0})


async def test_text_comes_back_word_by_word_and_then_whole(agent: EchoAgent) -> None:
    events = await turn(agent, "  one two\n three ")
    assert [event["content"] for event in events if event["type"] == "delta"] == ["  one", " two", "\n three", " "]
    assert kinds(events)[-2:] == ["message", "complete"]
    assert text(events) == streamed(events) == "  one two\n three "
    (message_id,) = {event["message_id"] for event in events[:-1]}
    assert message_id != (await turn(agent, "x"))[0]["message_id"]
    assert events[-1]["usage"] == {"output_tokens": 4}


async def test_pieces_are_of_their_number_and_size(agent: EchoAgent) -> None:
    events = await turn(agent, '{"deltas": 3, "size": 2}')
    assert kinds(events) == ["delta", "delta", "delta", "complete"]
    assert streamed(events) == "xxxxxx"
    events = await turn(agent, '{"fail": true}')
    assert kinds(events) == ["delta", "error", "complete"]
    assert events[-1]["stop_reason"] == "error"


@pytest.mark.parametrize(
    "query",
    [
        "{",
        "{not json}",
        '{"deltas": "3"}',
        '{"deltas": true}',
        '{"deltas": -1}',
        '{"deltas": 1, "colour": "red"}',
        f'{{"size": {MAX_SIZE + 1}}}',
        '{"gap": 1e999}',
        '{"gap": NaN}',
        '{"tell": "secrets"}',
        '{"ask": "Write"}',
        '{"tell": "\ud800"}',
        '{"deltas": ' * 5000,
        "[1]",
    ],
)
async def test_what_is_not_the_notation_is_text(query: str) -> None:
    assert read_query(query, AgentOptions()).text == query


@pytest.mark.parametrize(
    ("option", "told"), [("model", "parrot"), ("system_prompt", "null"), ("allowed_tools", '["Read"]')]
)
async def test_it_tells_its_options(agent: EchoAgent, option: str, told: str) -> None:
    assert text(await turn(agent, json.dumps({"tell": option}))) == told


async def test_of_blocks_the_text_is_taken(agent: EchoAgent) -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "one "},
        {"type": "image", "source": {}},
        {"type": "text", "text": "two"},
    ]
    assert text(await turn(agent, blocks)) == "one two"


@pytest.mark.parametrize(
    ("decision", "content", "is_error"),
    [
        (Decision("allow"), '{"a": 1}', False),
        (Decision("allow", updated_input={"b": 2}), '{"b": 2}', False),
        (Decision("deny", message="rather not"), "rather not", True),
    ],
)
async def test_a_tool_echoes_what_was_decided(
    agent: EchoAgent, decision: Decision, content: str, is_error: bool
) -> None:
    events: list[Event] = []
    async for event in agent.run(Turn("t", ask("Write"))):
        events.append(dict(event))
        if event["type"] == "permission_request":
            await agent.answer(event["request_id"], decision)
    assert kinds(events) == ["tool_use", "permission_request", "tool_result", "complete"]
    assert (events[2]["content"], events[2]["is_error"]) == (content, is_error)
    assert len({event["tool_use_id"] for event in events[:3]}) == 1


@pytest.mark.parametrize(
    ("tool", "mode", "denied"),
    [
        ("Read", "default", False),
        ("Bash", "bypassPermissions", True),
        ("Write", "acceptEdits", False),
        ("Write", "dontAsk", True),
    ],
)
async def test_some_tools_need_no_asking(agent: EchoAgent, tool: str, mode: str, denied: bool) -> None:
    await agent.configure(AgentOptions(permission_mode=mode, allowed_tools=("Read",), disallowed_tools=("Bash",)))
    events = await turn(agent, ask(tool))
    assert kinds(events) == ["tool_use", "tool_result", "complete"]
    assert events[1]["is_error"] is denied


async def test_what_is_remembered_is_not_asked_again(agent: EchoAgent) -> None:
    async for event in agent.run(Turn("t", ask("Write"))):
        if event["type"] == "permission_request":
            await agent.answer(event["request_id"], Decision("allow", remember=True))
    assert "permission_request" not in kinds(await turn(agent, ask("Write")))


async def test_what_steers_comes_instead_of_what_was_left_to_say(agent: EchoAgent) -> None:
    events: list[Event] = []
    with anyio.fail_after(HANG_SECONDS):
        async for event in agent.run(Turn("t", '{"deltas": null}')):
            events.append(dict(event))
            if kinds(events) == ["delta", "delta"]:
                await agent.steer(Turn("u", "one two"))
                await agent.steer(Turn("v", "three"))
    assert kinds(events) == ["delta", "delta", "notice", "message", "notice", "delta", "message", "complete"]
    assert [event["detail"] for event in events if event["type"] == "notice"] == [{"turn_id": "u"}, {"turn_id": "v"}]
    assert text(events) == "three"  # which came before the first word of the other
