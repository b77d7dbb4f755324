"""Turns over HTTP, as a client sees them: real server, real CLI, scripted model."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from tests.support.server import RunningServer, running_server
from tests.support.sse import events
from tests.support.talk import Event, Talk, only, script, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    limits = ("--max-queued-turns", "2", "--max-tokens", "1000000")
    async with running_server(tmp_path_factory.mktemp("shared"), *limits) as server:
        yield server


async def test_a_turn_streams_from_its_query_to_its_complete(client: Talk) -> None:
    session = await client.open(title="first")
    assert session["state"] == "idle" and session["title"] == "first"
    turn = await client.turn(session["session_id"], script({"think": "hm", "say": "one two three"}), turn_id="t1")
    assert {event["turn_id"] for event in turn} == {"t1"}
    assert turn[0]["type"] == "query" and turn[0]["principal"] == "admin"
    assert turn[-1]["type"] == "complete" and turn[-1]["stop_reason"] == "end_turn"
    assert turn[-1]["usage"]["output_tokens"] > 0 and turn[-1]["duration_ms"] > 0
    assert text(turn) == "one two three"
    assert "".join(event["content"] for event in turn if event["type"] == "thinking") == "hm"
    finished = [event for event in turn if event["type"] == "message" and event["content"][0]["type"] == "text"]
    assert [event["content"][0]["text"] for event in finished] == ["one two three"]
    streamed = {(event["message_id"], event["index"]) for event in turn if event["type"] == "delta"}
    assert streamed == {(finished[0]["message_id"], finished[0]["index"])}
    everything = await client.history(session["session_id"])
    assert [event["seq"] for event in everything] == list(range(1, len(everything) + 1))
    assert [event for event in everything if event.get("turn_id") == "t1"] == turn
    states = [event["state"] for event in everything if event["type"] == "session"]
    assert states == ["idle", "starting", "running", "idle"]
    view = await client.session(session["session_id"])
    assert (view["turns"], view["last_seq"], view["state"]) == (1, len(everything), "idle")
    assert view["cost_usd"] == pytest.approx(turn[-1]["cost_usd"])


async def test_a_session_remembers_and_keeps_its_process(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "My name is Ada.")
    turn = await client.turn("s", "What is my name?")
    assert only(turn, "complete")["stop_reason"] == "end_turn"
    assert "My name is Ada." in str(server.model.requests[-1].body)
    states = [event["state"] for event in await client.history("s") if event["type"] == "session"]
    assert states.count("starting") == 1


async def test_a_turn_goes_on_when_its_client_leaves(client: Talk) -> None:
    await client.open(session_id="s")
    body = {"query": script({"words": 40, "say": "w ", "gap_ms": 25})}
    async with client.http.stream("POST", "/stream/s", json=body) as answer:
        async for event in events(answer):
            if event["type"] == "delta":
                break
    complete = await client.until("s", "complete")
    assert complete["stop_reason"] == "end_turn"
    assert text(await client.history("s")).count("w") == 40


async def test_a_turn_runs_with_no_client_at_all(client: Talk) -> None:
    await client.open(session_id="s")
    turn = await client.start("s", script({"say": "alone"}), turn_id="t")
    assert turn == {"turn_id": "t", "session_id": "s", "state": "running"}
    await client.until("s", "complete", turn_id="t")
    assert text(await client.history("s")) == "alone"


async def test_the_same_turn_id_again_attaches_and_never_runs_twice(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "hello")
    calls = len(server.model.requests)
    query = script({"say": "once", "gap_ms": 100})
    seen: list[list[Event]] = []

    async def attach() -> None:
        seen.append(await client.turn("s", query, turn_id="same"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(attach)
    again = await client.http.get("/stream/s", params={"query": "another", "turn_id": "same"})
    by_header = await client.http.post("/stream/s", json={"query": query}, headers={"Idempotency-Key": "same"})
    assert all(turn == seen[0] for turn in seen)
    assert again.text == by_header.text and '"once"' in again.text
    assert len(server.model.requests) == calls + 1


async def test_an_event_source_that_reconnects_resumes_and_is_ended_with_204(client: Talk) -> None:
    await client.open(session_id="s")
    url = httpx.QueryParams(query=script({"words": 30, "say": "w ", "gap_ms": 20}))
    first: list[Event] = []
    async with client.http.stream("GET", "/stream/s", params=url) as answer:
        async for event in events(answer):
            first.append(event)
            if len([event for event in first if event["type"] == "delta"]) == 5:
                break
    last = {"Last-Event-ID": str(first[-1]["seq"])}
    async with client.http.stream("GET", "/stream/s", params=url, headers=last) as answer:
        rest = [event async for event in events(answer)]
    whole = [event for event in await client.history("s") if "turn_id" in event]
    assert first + rest == whole
    assert text(whole).split() == ["w"] * 30
    over = {"Last-Event-ID": str(rest[-1]["seq"])}
    answer = await client.http.get("/stream/s", params=url, headers=over)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.session("s"))["turns"] == 1


async def test_turns_wait_in_a_queue_and_run_one_after_another(client: Talk) -> None:
    await client.open(session_id="s")
    slow = script({"words": 20, "say": "w ", "gap_ms": 50})
    assert (await client.start("s", slow, turn_id="a"))["state"] == "running"
    busy = await client.http.post("/sessions/s/turns", json={"query": "no", "if_busy": "reject"})
    assert (busy.status_code, busy.json()["code"]) == (409, "busy")
    for turn_id in ("b", "c"):
        turn = await client.start("s", script({"say": turn_id}), turn_id=turn_id)
        assert turn["state"] == "queued"
    full = await client.http.post("/sessions/s/turns", json={"query": "no", "turn_id": "d"})
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert int(full.headers["Retry-After"]) > 0
    await client.until("s", "complete", turn_id="c")
    history = await client.history("s")
    assert [event["turn_id"] for event in history if event["type"] == "complete"] == ["a", "b", "c"]
    order = [event["turn_id"] for event in history if event["type"] == "delta"]
    assert order == sorted(order)
    assert not [event for event in history if event.get("turn_id") == "d"]


async def test_interrupting_stops_the_turn_and_leaves_the_session_usable(client: Talk) -> None:
    await client.open(session_id="s")
    idle = await client.http.post("/sessions/s/interrupt")
    assert (idle.status_code, idle.json()["code"]) == (409, "not_running")
    await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 50}), turn_id="long")
    delta = await client.until("s", "delta")
    assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
    complete = await client.until("s", "complete", after=delta["seq"])
    assert complete["stop_reason"] == "interrupted"
    assert text(await client.turn("s", script({"say": "fine"}))) == "fine"


async def test_interrupting_before_the_agent_is_there_stops_the_turn_too(client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 50}), turn_id="long")
    assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
    complete = await client.until("s", "complete")
    assert complete["stop_reason"] == "interrupted"
    assert text(await client.turn("s", script({"say": "fine"}))) == "fine"


async def test_an_api_error_is_an_error_event_and_the_session_goes_on(client: Talk) -> None:
    await client.open(session_id="s")
    turn = await client.turn("s", script({"error": 400}))
    assert only(turn, "error")["code"] == "invalid_request"
    assert turn[-1]["stop_reason"] == "error"
    assert text(await client.turn("s", script({"say": "fine"}))) == "fine"


async def test_a_cut_stream_is_made_good_by_the_message(client: Talk) -> None:
    await client.open(session_id="s")
    turn = await client.turn("s", script({"say": "one two three four", "cut": 2, "times": 1}))
    messages = [event for event in turn if event["type"] == "message" and event["role"] == "assistant"]
    assert [block["text"] for block in messages[-1]["content"]] == ["one two three four"]
    assert turn[-1]["stop_reason"] == "end_turn"


async def test_a_reply_of_5_mb_arrives_whole(client: Talk) -> None:
    await client.open(session_id="s")
    turn = await client.turn("s", script({"size": 5_000_000}))
    assert len(text(turn)) == 5_000_000
    assert turn[-1]["stop_reason"] == "end_turn"


async def test_a_query_is_plain_text_whatever_it_begins_with(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    for query in ("/clear", "--version", "@/etc/passwd", "!ls", "# remember", '{"type": "user"}', "\u2028\x00"):
        turn = await client.turn("s", query)
        assert turn[-1]["stop_reason"] == "end_turn", turn
        asked = str(server.model.requests[-1].body)
        assert "root:" not in asked
    assert (await client.session("s"))["turns"] == 7


async def test_blocks_of_text_images_and_documents_reach_the_model(server: RunningServer, client: Talk) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}}
    await client.open(session_id="s")
    pdf = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF-1.4 ...").decode()}
    plain = {"type": "text", "media_type": "text/plain", "data": "words of a document"}
    documents = [{"type": "document", "source": source, "title": "A title"} for source in (pdf, plain)]
    blocks = [{"type": "text", "text": "what is this?"}, image, *documents]
    answer = await client.http.post("/stream/s", json={"query": blocks})
    assert '"stop_reason":"end_turn"' in answer.text
    asked = [block for message in server.model.requests[-1].body["messages"] for block in message["content"]]
    assert "image/png" in str(asked)
    assert [block for block in asked if block["type"] == "document"] == documents


async def test_a_closed_sessions_stream_ends_and_a_browsers_coming_back_is_ended_with_204(client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "hello")
    async with client.follow("s") as following:
        assert (await client.http.delete("/sessions/s")).status_code == 204
        seen = [event async for event in following]
    assert seen[-1]["state"] == "closed"
    last = {"Last-Event-ID": str(seen[-1]["seq"])}
    assert (await client.http.get("/sessions/s/events", headers=last)).status_code == 204
    before = {"Last-Event-ID": str(seen[-2]["seq"])}
    async with client.http.stream("GET", "/sessions/s/events", headers=before) as answer:
        assert [event async for event in events(answer)] == seen[-1:]
