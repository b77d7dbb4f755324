"""A client that takes little at a time follows a real agent's turn, and reads what is large where it wants to."""

from __future__ import annotations

import json

import pytest

from tests.support.server import RunningServer
from tests.support.sse import events
from tests.support.talk import Event, Talk, only, script
from tests.support.websocket import talking

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

MAX = 16_384


async def test_a_turn_with_large_events_fits_and_is_whole_elsewhere(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    body = {"query": script({"say": "a few words, and " + "x" * 100_000}), "turn_id": "t"}
    seen: list[Event] = []
    async with client.http.stream("POST", f"/stream/s?max_event={MAX}", json=body) as answer:
        async for event in events(answer):
            seen.append(event)
            if len(seen) == 3:  # cut off, and back
                break
    headers = {"last-event-id": str(seen[-1]["seq"])}
    async with client.http.stream("POST", f"/stream/s?max_event={MAX}", json=body, headers=headers) as answer:
        seen += [event async for event in events(answer)]
    whole = [event for event in await client.history("s") if event.get("turn_id") == "t"]
    assert [event["seq"] for event in seen] == [event["seq"] for event in whole]
    assert all(len(json.dumps(event, separators=(",", ":"), ensure_ascii=False)) <= MAX for event in seen)
    assert "/content/0/text" in only(seen, "message")["cut"]
    assert "/content" in only(seen, "query")["cut"]
    for event, before in zip(seen, whole, strict=True):
        there = (await client.http.get(f"/sessions/s/events/{event['seq']}")).raise_for_status().json()
        assert there == before
        assert event == before or "cut" in event
    async with talking(
        server.url, f"/claude/ws/s?after=0&max_event={MAX}", token=server.token, v1=True, max_size=MAX
    ) as socket:
        told = await socket.until("complete")
    assert [event for event in told if event.get("turn_id") == "t"] == seen
