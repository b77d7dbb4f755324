"""Subagents speak in the history of their session, under their names, and are left out where a client asks for that."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer
from tests.support.sse import events
from tests.support.talk import Event, Talk, script
from tests.support.websocket import talking

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


def delegate(*steps: dict[str, Any], background: bool = False) -> dict[str, Any]:
    """A step that has a subagent do ``steps``."""
    task = {"description": "x", "subagent_type": "general-purpose", "prompt": script(*steps)}
    return {"tool": {"name": "Agent", "input": {**task, "run_in_background": background}}}


def look(words: str) -> dict[str, Any]:
    return {"say": words, "tool": {"name": "Bash", "input": {"command": "echo seen"}}}


def theirs(found: list[Event]) -> list[Event]:
    return [event for event in found if "parent_tool_use_id" in event]


def words(found: list[Event]) -> list[str]:
    blocks = [block for event in found if event["type"] == "message" for block in event["content"]]
    return [block["text"] for block in blocks if block["type"] == "text"]


async def test_a_subagent_speaks_under_its_name_and_can_be_left_out(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s", allowed_tools=["Agent", "Task", "Bash"])
    found = await client.turn("s", script(delegate(look("I look"), {"say": "all seen"}), {"say": "Done."}))
    (use,) = [e for e in found if e["type"] == "tool_use" and "parent_tool_use_id" not in e]
    spoken = theirs(found)
    assert words(spoken) == ["I look", "all seen"]
    assert {e["type"] for e in spoken} == {"message", "tool_use", "tool_result"}
    assert {(e["parent_tool_use_id"], e["subagent"]) for e in spoken} == {(use["tool_use_id"], "general-purpose")}

    # Without them the rest is the same.
    rest = [e["seq"] for e in found if e not in spoken]
    page = (await client.http.get("/sessions/s/events?live=false&subagents=false")).json()
    assert [e["seq"] for e in page["events"] if e.get("turn_id")] == rest
    last = found[-1]["seq"]
    async with client.http.stream("GET", "/sessions/s/events?subagents=false") as answer:
        live = [event async for event in _until(events(answer), last)]
    assert [e["seq"] for e in live if e.get("turn_id")] == rest
    path = "/claude/ws/s?after=0&subagents=false"
    async with talking(server.url, path, token=server.token) as socket:
        told = await socket.until("complete")
    assert [e["seq"] for e in told if e.get("turn_id")] == rest
    body = {"query": "hello", "turn_id": found[0]["turn_id"]}
    async with client.http.stream("POST", "/stream/s?subagents=false", json=body) as answer:
        assert [event["seq"] async for event in events(answer)] == rest

    # A page of events of which none is left does not look like the end.
    after = spoken[0]["seq"] - 1
    url = f"/sessions/s/events?live=false&subagents=false&limit=1&after={after}"
    page = (await client.http.get(url)).json()
    assert page["events"][0]["seq"] > after + 1 and page["next_after"] == page["events"][0]["seq"]


async def test_one_in_the_background_speaks_also_between_turns(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s", allowed_tools=["Agent", "Task", "Bash"])
    later = {"say": "all seen", "stall": 0}
    await client.turn("s", script(delegate(look("I look"), later, background=True), {"say": "Meanwhile."}))
    with anyio.fail_after(HANG_SECONDS):
        while words(theirs(found := await client.history("s"))) != ["I look", "all seen"]:
            server.model.release()  # its second reply waits for that
            await anyio.sleep(0.1)
        assert {e["subagent"] for e in theirs(found)} == {"general-purpose"}
        assert [e.get("turn_id") for e in found if words([e]) == ["all seen"]] == [None]
        await client.until("s", "query", principal=None)  # its end begins a turn


async def _until(found: Any, seq: int) -> Any:
    async for event in found:
        yield event
        if event["seq"] >= seq:
            return
