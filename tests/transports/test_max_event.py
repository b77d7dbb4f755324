"""Clients get no event that is larger than they take; nothing else about the events changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from portico.core.events import Delta, Event, Message, ToolResult, encode_json
from portico.core.store import READ_BYTES
from portico.core.tool_details import ToolDetails
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.scripted import Ask, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, serving
from tests.support.talk import only
from tests.support.websocket import talking

pytestmark = pytest.mark.anyio

LARGE = "é\n" * 400_000
DETAILS: ToolDetails = {"structured_content": {"rows": [["a row", number] for number in range(40_000)]}}
STEPS = (
    Delta(type="delta", content="small"),
    Message(type="message", role="assistant", content=[{"type": "text", "text": LARGE}, {"type": "text", "text": "b"}]),
    ToolResult(type="tool_result", tool_use_id="i", content="x" * 3000, is_error=False, details=DETAILS),
    Delta(type="delta", content="y" * 1_200_000),
    Delta(type="delta", content="end"),
)
MAX = 20_000


@asynccontextmanager
async def large(folder: Path, **options: Any) -> AsyncIterator[Served]:
    """A server with one session, whose only turn said all of `STEPS`."""
    async with serving(folder, driver=ScriptedDriver([turn(*STEPS), turn()]), **options) as served:
        await served.session()
        await served.run("hello")
        yield served


async def history(served: Served, **parameters: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    more = True
    while more:
        asked = {"live": False, "after": events[-1]["seq"] if events else 0, **parameters}
        answer = await served.client.get("/claude/sessions/s/events", params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        events += page["events"]
        assert page["next_after"] == events[-1]["seq"]
        more = page["has_more"]
    return events


async def lines(served: Served, method: str, path: str, last: int, **options: Any) -> list[bytes]:
    """The `data:` lines of a stream, up to the event ``last``."""
    found: list[bytes] = []
    async with served.client.stream(method, path, **options) as answer:
        assert answer.status_code == 200
        rest = b""
        async for chunk in answer.aiter_raw():
            *whole, rest = (rest + chunk).split(b"\n")
            found += [line + b"\n" for line in whole if line.startswith(b"data:")]
            if found and json.loads(found[-1][5:])["seq"] >= last:
                return found
    return found


def check(whole: Sequence[Mapping[str, Any]], found: Sequence[bytes], max_event: int) -> None:
    """``found`` are the events ``whole``, of which those that are too large were cut."""
    around = len(b"data: \n")
    assert max(map(len, found)) <= max_event
    events = [json.loads(each.removeprefix(b"data: ")) for each in found]
    assert [event["seq"] for event in events] == [event["seq"] for event in whole]
    for event, before in zip(events, whole, strict=True):
        if len(encode_json(before)) + around <= max_event:
            assert event == before
        else:
            assert event["cut"]
            assert {name: event[name] for name in ("type", "turn_id", "time")}.items() <= before.items()
    assert sum("cut" in event for event in events) >= 1


async def test_no_stream_has_a_larger_event(tmp_path: Path) -> None:
    async with large(tmp_path) as served:
        whole = await history(served)
        turn_events = [event for event in whole if "turn_id" in event]
        last, end = whole[-1]["seq"], turn_events[-1]["seq"]
        limit = f"max_event={MAX}"
        check(whole, await lines(served, "GET", f"/claude/sessions/s/events?{limit}", last), MAX)
        check(turn_events, await lines(served, "GET", f"/claude/stream/s?query=q&turn_id=t&{limit}", end), MAX)
        body = {"query": "hello", "turn_id": "t"}
        check(turn_events, await lines(served, "POST", f"/claude/stream/s?{limit}", end, json=body), MAX)
        headers = {"last-event-id": "2"}
        resumed = await lines(served, "POST", f"/claude/stream/s?{limit}", end, json=body, headers=headers)
        check([event for event in turn_events if event["seq"] > 2], resumed, MAX)
        page = await history(served, max_event=MAX)
        check(whole, [encode_json(event) for event in page], MAX)
        message, result = only(page, "message"), only(page, "tool_result")
        assert message["cut"] == {"/content/0/text": len(LARGE.encode())}
        assert message["content"][1] == {"type": "text", "text": "b"}
        assert result["cut"].keys() == {"/details/structured_content/rows"}
        assert result["content"] == "x" * 3000


async def test_no_websocket_has_a_larger_message(tmp_path: Path) -> None:
    async with large(tmp_path) as served:
        whole = await history(served)
        for after in (0, 4):
            for v1 in (False, True):
                path = f"/claude/ws/s?after={after}&max_event={MAX}"
                async with talking(served.url, path, v1=v1, max_size=MAX) as socket:
                    found = [(await socket.connection.recv(decode=False)) for _ in whole[after:]]
                check(whole[after:], found, MAX)
        async with talking(served.url, f"/claude/ws/s?max_event={MAX}", v1=True, max_size=MAX) as socket:
            await socket.send({"type": "resume", "after": 2})
            check(whole[2:], [(await socket.connection.recv(decode=False)) for _ in whole[2:]], MAX)


async def test_cursors_are_exact_with_it_and_without(tmp_path: Path) -> None:
    """A client that changes its mind at each event sees each of them once."""
    async with large(tmp_path) as served:
        whole = await history(served)
        seen: list[int] = []
        while len(seen) < len(whole):
            page = {"limit": 1, "after": len(seen), "live": False, **({"max_event": 1024} if len(seen) % 2 else {})}
            answer = (await served.client.get("/claude/sessions/s/events", params=page)).json()
            (event,) = answer["events"]
            assert answer["next_after"] == event["seq"]
            seen.append(event["seq"])
        assert seen == [event["seq"] for event in whole]


async def test_a_plain_websocket_that_asks_gets_nothing_larger(tmp_path: Path) -> None:
    async with serving(tmp_path, driver=ScriptedDriver([turn(*STEPS)])) as served:
        await served.session()
        async with talking(served.url, f"/claude/ws/s?max_event={MAX}", max_size=MAX) as socket:
            await socket.send("hello")
            turn_events = await socket.until("complete")
        assert [event["type"] for event in turn_events if "cut" in event] == ["message", "tool_result", "delta"]


async def test_an_open_request_is_told_cut_to_who_joins(tmp_path: Path) -> None:
    asking = turn(Ask("Write", {"content": LARGE, "file_path": "/tmp/f"}, "r"))
    async with serving(tmp_path, driver=ScriptedDriver([asking])) as served:
        await served.session()
        async with talking(served.url, v1=True) as first:
            await first.send({"type": "query", "content": "hello"})
            await first.until("permission_request")
            async with talking(served.url, "/claude/ws/s?max_event=4096", v1=True, max_size=4096) as second:
                (request,) = await second.until("permission_request")
        assert request["cut"] == {"/input/content": len(LARGE.encode())}
        assert request["input"]["file_path"] == "/tmp/f"


async def test_an_answer_to_a_frame_is_not_larger_either(tmp_path: Path) -> None:
    async with large(tmp_path) as served:
        async with talking(served.url, "/claude/ws/s?max_event=1024", v1=True, max_size=1024) as socket:
            wrong = {"type": "query", **{f"member {number}": "x" * 90 for number in range(100)}}
            answer = await socket.ask(wrong)
        assert (answer["type"], answer["code"], answer["status"]) == ("nack", "invalid", 422)


async def test_the_whole_event_is_at_its_number(tmp_path: Path) -> None:
    async with large(tmp_path) as served:
        whole = await history(served)
        for event in whole:
            answer = await served.client.get(f"/claude/sessions/s/events/{event['seq']}")
            assert answer.headers["content-type"] == "application/json"
            assert answer.json() == event
        last = whole[-1]["seq"]
        for seq in (0, last + 1, 10**17, "x", "-1", "1" * 19, "%31%20"):
            answer = await served.client.get(f"/claude/sessions/s/events/{seq}")
            assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found"), seq


async def test_one_event_is_for_its_owner_and_for_tickets(tmp_path: Path) -> None:
    async with large(tmp_path) as served:
        path = "/claude/sessions/s/events/1"
        ticket = (await served.client.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
        await served.session("other")
        async with httpx.AsyncClient(base_url=served.url, timeout=HANG_SECONDS, trust_env=False) as anybody:
            assert (await anybody.get(path)).status_code == 401
            assert (await anybody.get(path, params={"ticket": ticket})).json()["seq"] == 1
            elsewhere = await anybody.get("/claude/sessions/other/events/1", params={"ticket": ticket})
            assert elsewhere.json()["code"] == "session_not_found"
            bob = await anybody.get(path, headers={"authorization": "Bearer bob-secret"})
            assert (bob.status_code, bob.json()["code"]) == (404, "session_not_found")


class Forgetful(MemoryStore):
    """Has deleted the events up to ``gone``, as retention does."""

    gone = 0

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        return await super().read(session_id, max(after, self.gone), limit, max_bytes)

    async def event(self, session_id: str, seq: int) -> Event | None:
        return await super().event(session_id, seq) if seq > self.gone else None


async def test_of_a_deleted_event_it_is_said_where_the_history_begins(tmp_path: Path) -> None:
    store = Forgetful()
    async with large(tmp_path, store=store) as served:
        for gone, min_seq in ((3, 4), (100, len(await history(served)) + 1)):
            store.gone = gone
            answer = await served.client.get("/claude/sessions/s/events/2")
            assert (answer.status_code, answer.json()["code"]) == (404, "event_deleted")
            assert answer.json()["min_seq"] == min_seq
            page = (await served.client.get("/claude/sessions/s/events?live=false&max_event=1024&limit=1")).json()
            gap = {"type": "gap", "session_id": "s", "after": 0, "min_seq": min_seq}
            assert page["events"][0] == gap


@pytest.mark.parametrize("max_event", ["1023", "0", "-1", "", "64k", "1e6"])
async def test_a_size_that_is_none_is_refused(tmp_path: Path, max_event: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        for path in ("stream/s?query=q&", "sessions/s/events?", "sessions/s/events?live=false&"):
            answer = await served.client.get(f"/claude/{path}max_event={max_event}")
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        answer = await served.client.post(f"/claude/stream/s?max_event={max_event}", json={"query": "q"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        async with talking(served.url, f"/claude/ws/s?max_event={max_event}") as socket:
            code, reason = await socket.closed()
        assert (code, reason.split(":")[0]) == (4400, "invalid")
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 0


async def test_a_library_with_a_limit_of_its_own_takes_all(tmp_path: Path) -> None:
    """PyPI's `websockets` as it is: it takes messages of 1 MiB, and ends the connection at a larger one."""
    async with large(tmp_path) as served:
        whole = await history(served)
        address = f"{served.url.replace('http', 'ws', 1)}/claude/ws/s?after=0&max_event=1000000"
        headers = {"Authorization": "Bearer alice-secret"}
        async with connect(
            address, additional_headers=headers, subprotocols=[Subprotocol("portico.v1")], proxy=None
        ) as socket:
            found = [await asyncio.wait_for(socket.recv(decode=False), HANG_SECONDS) for _ in whole]
        check(whole, found, 1_000_000)
