import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from httpx_sse import EventSource, aconnect_sse

from portico.transports import eventstream, sse
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS
from tests.support.serving import Served, get, serving
from tests.support.sse import events

pytestmark = pytest.mark.anyio

SLOW = json.dumps({"deltas": 200, "gap": 0.01})
ENDLESS = json.dumps({"deltas": None, "gap": 0.01})


async def test_a_turn_is_streamed_from_its_query_to_its_complete(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        async with served.client.stream("GET", "/claude/stream/s?query=hello+dear+world&turn_id=t") as answer:
            assert answer.headers["cache-control"] == "no-store, no-transform"
            assert answer.headers["x-accel-buffering"] == "no"
            raw = (await answer.aread()).decode()
        assert raw.startswith("retry: 1000\ndata: ")
        assert "event:" not in raw
        got = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: ")]
        assert [event["type"] for event in got] == ["query", "delta", "delta", "delta", "message", "complete"]
        assert {event["turn_id"] for event in got} == {"t"}
        assert "".join(event["content"] for event in got[1:4]) == "hello dear world"


async def test_all_see_the_same_bytes_live_and_replayed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        got: dict[str, bytes] = {}

        async def watch(name: str, path: str, until: bytes) -> None:
            async with served.client.stream("GET", path) as answer:
                got[name] = b""
                async for chunk in answer.aiter_raw():
                    got[name] += chunk
                    if until in got[name] and got[name].endswith(b"\n\n"):
                        return

        over = b'"state":"idle"}\n'
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(watch, f"live {n}", "/claude/sessions/s/events?after=1", over)
            await served.run(SLOW)
        await watch("replay", "/claude/sessions/s/events?after=1", over)
        assert len(set(got.values())) == 1
        page = await served.client.get("/claude/sessions/s/events?live=false&after=1")
        lines = [line[6:] for line in got["replay"].splitlines() if line.startswith(b"data: ")]
        assert page.content.startswith(b'{"events":[' + b",".join(lines) + b'],"next_after":')


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_cut_stream_is_resumed_exactly_and_nothing_runs_twice(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        if method == "GET":
            request = served.client.build_request("GET", "/claude/stream/s", params={"query": SLOW})
        else:
            request = served.client.build_request("POST", "/claude/stream/s", json={"query": SLOW, "turn_id": "t"})
        seen = []
        answer = await served.client.send(request, stream=True)
        try:
            async for event in events(answer):
                seen.append(event)
                if len(seen) == 20:
                    break
        finally:
            await answer.aclose()
        cuts = 0
        while seen[-1]["type"] != "complete":
            request.headers["last-event-id"] = str(seen[-1]["seq"])
            answer = await served.client.send(request, stream=True)
            start = len(seen)
            try:
                async for event in events(answer):
                    seen.append(event)
                    if cuts < 3 and len(seen) == start + 20:
                        cuts += 1
                        break
            finally:
                await answer.aclose()
        assert cuts == 3
        turn_id = seen[0]["turn_id"]
        page = (await served.client.get("/claude/sessions/s/events?live=false")).json()["events"]
        assert seen == [event for event in page if event.get("turn_id") == turn_id]
        assert [event["type"] for event in page].count("query") == 1

        request.headers["last-event-id"] = str(seen[-1]["seq"])
        over = await served.client.send(request)
        assert (over.status_code, over.content) == (204, b"")
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 1


async def test_the_history_is_followed_from_any_point(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("a b c d e")
        page = (await served.client.get("/claude/sessions/s/events?live=false&limit=3")).json()
        assert [event["seq"] for event in page["events"]] == [1, 2, 3]
        assert (page["next_after"], page["has_more"]) == (3, True)
        path = "/claude/sessions/s/events?after=99"
        async with served.client.stream("GET", path, headers={"last-event-id": "3"}) as answer:
            async for event in events(answer):  # the header, of a browser that comes back, beats the URL
                assert event["seq"] == 4
                break
        late = await served.client.get("/claude/sessions/s/events?after=99")
        assert (late.status_code, late.json()["code"]) == (422, "after_too_large")


async def test_no_blank_line_is_without_an_event(tmp_path: Path) -> None:
    async with serving(tmp_path, heartbeat=0.1) as served:
        await served.session()
        silent = {"query": json.dumps({"deltas": 3, "gap": 0.4})}
        async with served.client.stream("GET", "/claude/stream/s", params=silent) as answer:
            raw = (await answer.aread()).decode()
    assert raw.count("\n:\n") > 3
    *blocks, rest = raw.split("\n\n")
    assert rest == ""
    for block in blocks:
        assert re.fullmatch(r"(retry: 1000\n)?(:\n)*data: .*\nid: [0-9]+", block), block
    # A library that makes an event of every blank line has nothing to make one of.
    got = list(EventSource(httpx.Response(200, headers=answer.headers, content=raw)).iter_sse())
    assert [json.loads(event.data)["seq"] for event in got] == [int(event.id) for event in got]
    assert len(got) == len(blocks)


async def beats(answer: httpx.Response, count: int) -> list[float]:
    """The times of so many heartbeats."""
    times: list[float] = []
    async for line in answer.aiter_lines():
        if line == ":":
            times.append(anyio.current_time())
            if len(times) == count:
                break
    return times


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/claude/stream/s?query={quote(ENDLESS)}&"),
        ("POST", "/claude/stream/s?"),
        ("GET", "/claude/sessions/s/events?"),
    ],
    ids=["get", "post", "session"],
)
async def test_a_client_may_choose_how_often_it_hears_something(tmp_path: Path, method: str, path: str) -> None:
    body = {"query": ENDLESS} if method == "POST" else None
    for of_the_server in (NEVER_SECONDS, 0.01):
        async with serving(tmp_path / str(of_the_server), heartbeat=of_the_server) as served:
            await served.session()
            async with served.client.stream(method, f"{path}heartbeat=1", json=body) as answer:
                first, second = await beats(answer, 2)
                assert second - first > 0.3  # not the 0.01 of the server
            for wrong in ("0", "61", "-1", "1.5", "x", "", "nan"):
                refused = await served.client.request(method, f"{path}heartbeat={wrong}", json=body)
                assert (refused.status_code, refused.json()["code"]) == (422, "invalid"), wrong
            page = await served.client.get("/claude/sessions/s/events?live=false&heartbeat=1")
            assert (page.status_code, page.json()["code"]) == (422, "invalid")


async def test_a_turn_is_silent_for_less_long_than_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert eventstream.TURN_SECONDS < 5 and eventstream.SESSION_SECONDS == 15
    monkeypatch.setattr(sse, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(sse, "SESSION_SECONDS", NEVER_SECONDS)
    async with serving(tmp_path) as served:
        await served.session()
        query = {"query": json.dumps({"deltas": 2, "gap": 0.5}), "turn_id": "t"}
        async with served.client.stream("GET", "/claude/sessions/s/events") as session:
            async with served.client.stream("POST", "/claude/stream/s", json=query) as turn:
                assert len(await beats(turn, 3)) == 3
            back = {"last-event-id": "3"}
            async with served.client.stream("POST", "/claude/stream/s", json=query, headers=back) as resumed:
                assert len(await beats(resumed, 3)) == 3
            async for line in session.aiter_lines():
                assert line != ":"
                if '"complete"' in line:
                    break


@pytest.mark.long
async def test_a_silent_turn_is_heard_to_its_end_by_who_waits_5_seconds(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        query = {"query": json.dumps({"deltas": 1, "gap": 7})}
        headers = {"authorization": "Bearer alice-secret"}
        async with (
            httpx.AsyncClient(base_url=served.url, headers=headers, trust_env=False) as client,
            aconnect_sse(client, "GET", "/claude/stream/s", params=query) as source,
        ):
            got = [event.json() async for event in source.aiter_sse()]
        assert [event["type"] for event in got] == ["query", "delta", "message", "complete"]


async def test_an_empty_event_id_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        headers = {"last-event-id": ""}
        for n, method in enumerate(("GET", "POST")):
            query = {"query": f"hi {n}"}
            sent: dict[str, Any] = {"params": query} if method == "GET" else {"json": query}
            async with served.client.stream(method, "/claude/stream/s", headers=headers, **sent) as answer:
                got = [event async for event in events(answer)]
            assert got[0]["content"] == f"hi {n}" and got[-1]["type"] == "complete"
        async with served.client.stream("GET", "/claude/sessions/s/events?after=3", headers=headers) as answer:
            async for event in events(answer):
                assert event["seq"] == 4
                break


@pytest.mark.parametrize("sent", [[""], ["", ""], ["", "2"], ["2", ""], ["2", "3"]], ids=str)
async def test_with_an_empty_event_id_a_ticket_to_read_asks_nothing(tmp_path: Path, sent: list[str]) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        ticket = (await served.client.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
        headers = [("last-event-id", each) for each in sent]
        async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=HANG_SECONDS) as client:
            answer = await client.get(f"/claude/stream/s?query=more&ticket={ticket}", headers=headers)
        assert answer.status_code == (400 if "3" in sent else 200 if "2" in sent else 403)
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 1


async def test_an_empty_event_id_beside_one_does_not_run_the_query_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run("hi")
        for sent in (["", "2"], ["2", ""]):
            headers = [("last-event-id", each) for each in sent]
            answer = await served.client.get("/claude/stream/s?query=hi", headers=headers)
            assert answer.status_code == 200 and '"type":"query"' not in answer.text
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 1


@pytest.mark.parametrize("path", ["/claude/stream/s?query=hi", "/claude/sessions/s/events"])
@pytest.mark.parametrize("last_event_id", ["x", "-1", "1.5", "9" * 30])
async def test_a_made_up_event_id_is_malformed(tmp_path: Path, path: str, last_event_id: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        answer = await served.client.get(path, headers={"last-event-id": last_event_id})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 0


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"sec-purpose": "prefetch"}),
        ("GET", {"sec-purpose": "prefetch;prerender"}),
        ("GET", {"purpose": "prefetch"}),
    ],
    ids=str,
)
async def test_what_only_looks_starts_nothing(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        before = (await served.client.get("/claude/sessions/s")).json()
        answer = await served.client.request(method, "/claude/stream/s?query=hi", headers=headers)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
        assert (await served.client.get("/claude/sessions/s")).json() == before


async def test_the_head_of_an_endless_stream_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        answer = await served.client.head("/claude/sessions/s/events")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_who_asks_for_a_streams_head_keeps_neither_connection_nor_stream_busy(tmp_path: Path) -> None:
    async with serving(tmp_path, max_streams=1) as served:
        await served.session()
        with anyio.fail_after(HANG_SECONDS):
            for _ in range(2):
                answer = await served.client.head("/claude/sessions/s/events")
                assert answer.status_code == 200
            assert (await served.client.get("/claude/sessions/s")).status_code == 200


async def test_a_page_of_huge_events_ends_early(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 5, "size": 3 * 1024 * 1024}))
        seen, after = [], 0
        while True:
            answer = await served.client.get("/claude/sessions/s/events", params={"live": "false", "after": after})
            assert len(answer.content) < 12 * 1024 * 1024
            page = answer.json()
            seen += [event["seq"] for event in page["events"]]
            after = page["next_after"]
            if not page["has_more"]:
                break
        assert seen == list(range(1, 13))


@pytest.mark.long
async def test_20000_events_are_replayed_in_one_go(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        await served.run(json.dumps({"deltas": 20_000}))
        client = await served.raw(get("/claude/sessions/s/events"))
        raw = b""
        while b'"state":"idle"}\nid: 20007\n\n' not in raw[-200:]:
            raw += await client.receive(1024 * 1024)
        await client.aclose()
        chunks = raw.count(b"\r\n") // 2
        ids = [int(line[4:]) for line in raw.splitlines() if line.startswith(b"id: ")]
        assert ids == list(range(1, 20_008))
        assert chunks < 40  # hundreds of events in each piece that is sent


async def test_100_clients_watch_one_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        counts: list[int] = []

        async def watch(answers: list[httpx.Response]) -> None:
            answer = await served.client.send(
                served.client.build_request("GET", "/claude/sessions/s/events"), stream=True
            )
            answers.append(answer)

        async def count(answer: httpx.Response) -> None:
            seen = 0
            async for event in events(answer):
                seen += 1
                if event["type"] == "session" and event["state"] == "idle" and seen > 1:
                    break
            counts.append(seen)
            await answer.aclose()

        answers: list[httpx.Response] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(watch, answers)
        async with anyio.create_task_group() as tasks:
            for answer in answers:
                tasks.start_soon(count, answer)
            await served.run(json.dumps({"deltas": 50, "gap": 0.002}))
        assert counts == [57] * 100


async def test_a_turn_goes_on_without_its_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        client = await served.raw(get("/claude/stream/s?turn_id=t&query=" + SLOW.replace('"', "%22").replace(" ", "+")))
        await client.receive()
        await client.aclose()
        await finished(served)
        page = (await served.client.get("/claude/sessions/s/events?live=false")).json()["events"]
        assert page[-2]["type"] == "complete" and page[-2]["stop_reason"] == "end_turn"


async def finished(served: Served) -> None:
    async with served.client.stream("GET", "/claude/stream/s?query=x&turn_id=t") as answer:
        async for event in events(answer):
            if event["type"] == "complete":
                return
