"""Much of it, sent by few: what is refused before it has come, what is held, and who is served meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.frames import Opcode

from portico.core.intake import FREE_BYTES, Intake
from portico.core.store import LIST_BYTES
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.scripted import Ask, ScriptedDriver
from portico.transports import http_connection
from portico.transports.leftovers import Leftovers
from portico.transports.websocket_connection import STRANGER_BYTES
from tests.support.limits import HANG_SECONDS
from tests.support.loop import longest_step
from tests.support.serving import Served, get, serving
from tests.support.websocket import close_code, frame, frames, open_raw, talking

pytestmark = pytest.mark.anyio

KIB, MIB = 1024, 1024 * 1024
TEXT, CONT = Opcode.TEXT, Opcode.CONT
TURNS = "/claude/sessions/s/turns"
JSON = "content-type: application/json"


def posting(size: int | None, path: str = TURNS, *fields: str, method: str = "POST") -> bytes:
    """The head of a request with a body of so many bytes, or in chunks."""
    length = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
    return get(path, JSON, length, *fields, method=method)


async def told(stream: SocketStream) -> tuple[int, str]:
    """Status and code of a refusal."""
    raw = b""
    with anyio.fail_after(HANG_SECONDS):
        while not (code := re.search(rb'"code":"(\w+)"', raw)):
            raw += await stream.receive()
    return int(raw.split()[1]), code[1].decode()


async def healthy(served: Served) -> None:
    assert (await served.client.get("/healthz")).status_code == 200


# What is refused.


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("value", [b"{}", b"0", b'"x"'])
async def test_a_body_of_small_values_is_refused_while_it_comes(tmp_path: Path, value: bytes, chunked: bool) -> None:
    async with serving(tmp_path, max_body=32 * MIB) as served:
        await served.session()
        part = b'{"query":[' + (value + b",") * 12_000
        stream = await served.raw(posting(None if chunked else 31 * MIB))
        await stream.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        assert await told(stream) == (413, "too_many_values")
        await healthy(served)


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("POST", "/claude/sessions", 2 * MIB),
        ("PATCH", "/claude/sessions/s", 256 * KIB),
        ("POST", "/claude/sessions/s/permissions/r", 2 * MIB),
        ("POST", "/claude/sessions/s/tickets", 4 * KIB),
        ("POST", "/claude/sessions/s/interrupt", 4 * KIB),
        ("DELETE", "/claude/sessions/s/turns/t", 4 * KIB),
        ("DELETE", "/claude/sessions/s", 4 * KIB),
        ("GET", "/claude/sessions/s", 4 * KIB),
        ("GET", "/healthz", 4 * KIB),
    ],
)
async def test_what_needs_little_takes_little(tmp_path: Path, method: str, path: str, takes: int) -> None:
    async with serving(tmp_path, max_body=32 * MIB) as served:
        await served.session()
        stream = await served.raw(posting(takes + 1, path, method=method))
        assert await told(stream) == (413, "too_large")
        document = (await served.client.get("/openapi.json")).json()
        template = path.replace("/s", "/{session_id}", 2).replace("{session_id}essions", "sessions")
        template = re.sub("/r$", "/{request_id}", re.sub("/t$", "/{turn_id}", template))
        said = document["paths"][template][method.lower()].get("requestBody", {}).get("description")
        assert said in (None, f"At most {takes:,} bytes.")


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_a_body_for_what_is_somebody_elses_is_not_waited_for(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        paths = [""] if method == "PATCH" else ["/turns", "/permissions/r", "/tickets"]
        targets = [f"/claude/sessions/{name}{path}" for name in ("s", "none") for path in paths]
        for path in [*targets, *(["/claude/stream/s"] if method == "POST" else [])]:
            size = 4000 if path.endswith("tickets") else 100_000
            head = posting(size, path, method=method).replace(b"alice", b"bob")
            assert await told(await served.raw(head)) == (404, "session_not_found"), path


async def test_a_body_of_who_may_not_send_it_is_not_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        ticket = (await served.client.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
        nobody = posting(100_000).replace(b"alice-secret", b"nobodys")
        assert await told(await served.raw(nobody)) == (401, "unauthenticated")
        line = b"authorization: Bearer alice-secret\r\n"
        reader = posting(100_000, f"{TURNS}?ticket={ticket}").replace(line, b"")
        assert await told(await served.raw(reader)) == (403, "not_allowed")


@pytest.mark.parametrize("count", [100, 101])
async def test_parameters_are_counted_before_anybody_asks_who_is_calling(tmp_path: Path, count: int) -> None:
    query = "&".join(["ticket=wrong", *(f"a{number}" for number in range(count - 1))])
    async with serving(tmp_path) as served:
        refused = (400, "malformed") if count > 100 else (401, "unauthenticated")
        for path in ("/claude/sessions/s", "/claude/stream/s", "/none"):
            assert (
                await told(await served.raw(f"GET {path}?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()))
                == refused
            )
        stream = await served.connect()
        await open_raw(stream, f"/claude/ws/s?{query}", token=None)
        assert await close_code(stream) == (4400 if count > 100 else 4401)


async def test_what_is_left_of_refused_bodies_is_read_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "LEFTOVER_SECONDS", 60)
    slowed: list[object] = []
    slow = Leftovers.slow

    def noting(self: Leftovers, transport: asyncio.Transport) -> None:
        slowed.append(transport)
        slow(self, transport)

    monkeypatch.setattr(Leftovers, "slow", noting)
    async with serving(tmp_path, max_body=32 * MIB) as served:
        await served.session()
        size = 8 * MIB
        streams = [await served.raw(posting(size)) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.send, b"x" * size)
            for stream in streams:
                assert await told(stream) == (400, "malformed")
        for stream in streams:  # and the connection is good for the next request
            await stream.send(get("/healthz"))
            with anyio.fail_after(HANG_SECONDS):
                assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        assert len(slowed) > 3 * 10


# What is held.


@asynccontextmanager
async def half_sent(served: Served, size: int, *, chunked: bool = False) -> AsyncIterator[SocketStream]:
    """A body of which the end is missing, and which the server has taken so far."""
    body = b'{"query":"' + b"x" * size
    async with await anyio.connect_tcp("127.0.0.1", int(served.url.rpartition(":")[2])) as stream:
        part = b"%x\r\n%b\r\n" % (len(body), body) if chunked else body
        await stream.send(posting(None if chunked else len(body) + 2) + part)
        yield stream


async def until_refused(served: Served, query: str) -> tuple[int, str]:
    """The answer to a query, once it is not taken any more."""
    with anyio.fail_after(HANG_SECONDS):
        while (answer := await served.client.post(TURNS, json={"query": query})).status_code == 202:
            await anyio.sleep(0.02)
    assert answer.headers.get("retry-after")
    return answer.status_code, answer.json()["code"]


async def until_taken(served: Served, query: str) -> None:
    with anyio.fail_after(HANG_SECONDS):
        while (await served.client.post(TURNS, json={"query": query})).status_code != 202:
            await anyio.sleep(0.02)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_half_sent_bodies_of_a_principal_are_held_within_one_limit(tmp_path: Path, chunked: bool) -> None:
    async with serving(tmp_path, intake=Intake(300 * KIB), max_queued_turns=1000) as served:
        await served.session()
        for other in ("bob", "admin"):
            headers = {"authorization": f"Bearer {other}-secret"}
            answer = await served.client.post("/claude/sessions", json={"session_id": other}, headers=headers)
            assert answer.status_code == 201
        large = "x" * 150 * KIB
        async with half_sent(served, 200 * KIB, chunked=chunked):
            assert await until_refused(served, large) == (429, "too_many_bodies")
            await until_taken(served, "x" * (FREE_BYTES - 100))  # what most are is taken
            headers = {"authorization": "Bearer bob-secret"}
            answer = await served.client.post("/claude/sessions/bob/turns", json={"query": large}, headers=headers)
            assert answer.status_code == 202
        await until_taken(served, large)  # who has gone holds nothing


async def test_hundreds_of_half_sent_bodies_hold_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "LEFTOVER_SECONDS", 60)
    async with serving(tmp_path, intake=(intake := Intake(300 * KIB))) as served:
        await served.session()
        streams = [await served.raw(posting(MIB)) for _ in range(200)]
        for stream in streams:
            await stream.send(b'{"query":"' + b"x" * 100 * KIB)
        for stream in streams:
            assert await told(stream) == (429, "too_many_bodies")
        assert not intake._taken


@pytest.mark.parametrize("end", ["malformed", "slow", "refused", "done", "gone"])
async def test_what_was_held_is_given_back_however_it_ends(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portico.transports.body.GRACE_SECONDS", 0.3 if end == "slow" else 20)
    monkeypatch.setattr("portico.transports.body.MIN_RATE", MIB)
    async with serving(tmp_path, intake=(intake := Intake(300 * KIB))) as served:
        await served.session()
        async with half_sent(served, 200 * KIB) as stream:
            with anyio.fail_after(HANG_SECONDS):
                while not intake._taken:
                    await anyio.sleep(0.01)
            if end == "slow":
                assert await told(stream) == (408, "request_timeout")
            elif end != "gone":
                await stream.send({"malformed": b"\n}", "refused": b'",'[:1] + b"]", "done": b'"}'}[end])
                answer = await stream.receive()
                assert answer.split()[1] == {"malformed": b"400", "refused": b"400", "done": b"202"}[end]
                assert not intake._taken
        with anyio.fail_after(HANG_SECONDS):
            while intake._taken:
                await anyio.sleep(0.01)


async def test_a_stream_that_goes_on_holds_nothing_of_its_query(tmp_path: Path) -> None:
    async with serving(tmp_path, intake=(intake := Intake(300 * KIB))) as served:
        await served.session()
        endless = json.dumps({"deltas": None, "gap": 0.01, "pad": "x" * 100 * KIB})
        async with served.client.stream("POST", "/claude/stream/s", json={"query": endless}) as answer:
            assert answer.status_code == 200
            assert not intake._taken


# WebSockets.


@pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])
async def test_half_sent_messages_are_held_with_the_bodies(tmp_path: Path, v1: bool) -> None:
    protocol = ["sec-websocket-protocol: portico.v1"] if v1 else []
    async with serving(tmp_path, intake=(intake := Intake(300 * KIB))) as served:
        await served.session()
        one, two, three = [await served.connect() for _ in range(3)]
        for stream in (one, two, three):
            await open_raw(stream, "/claude/ws/s", *protocol)
        await one.send(frame(TEXT, b"x" * 200 * KIB)[:100_000])  # the rest is announced
        with anyio.fail_after(HANG_SECONDS):
            while not intake._taken:
                await anyio.sleep(0.01)
        await two.send(frame(TEXT, b"x" * 200 * KIB)[:100])
        assert await close_code(two) == 4429
        await three.send(frame(TEXT, fin=False) + frame(CONT, b"x" * 30_000, fin=False) * 5)
        assert await close_code(three) == 4429
        assert (await served.client.post(TURNS, json={"query": "x" * 200 * KIB})).json()["code"] == "too_many_bodies"
        await one.aclose()
        await until_taken(served, "x" * 200 * KIB)
        with anyio.fail_after(HANG_SECONDS):
            while intake._taken:
                await anyio.sleep(0.01)


async def test_a_long_message_is_what_it_was_and_is_let_go(tmp_path: Path) -> None:
    text = "äöü😀中" * 20_000  # cut into pieces in the middle of characters
    async with serving(tmp_path, intake=(intake := Intake(900 * KIB))) as served:
        await served.session()
        for v1 in (False, True):
            async with talking(served.url, v1=v1) as client:
                for _ in range(3):
                    await client.send({"type": "query", "content": text} if v1 else text)
                    events = await client.until("complete")
                    assert [event["content"] for event in events if event["type"] == "query"] == [text]
        with anyio.fail_after(HANG_SECONDS):
            while intake._taken:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("size", [100, 200 * KIB])
async def test_a_message_that_is_no_utf8_is_told_so(tmp_path: Path, size: int) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        for data in (b"x" * size + b"\xff", b"x" * size + b"\xc3"):
            stream = await served.connect()
            await open_raw(stream)
            await stream.send(frame(TEXT, data))
            assert await close_code(stream) == 1007


async def test_a_frame_of_small_values_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.session()
        for end in (b"", b"]}"):
            stream = await served.connect()
            await open_raw(stream, "/claude/ws/s", "sec-websocket-protocol: portico.v1")
            with anyio.fail_after(HANG_SECONDS):
                await stream.send(frame(TEXT, b'{"type":"query","content":[' + b"{}," * 200_000 + b"0" + end))
                assert await close_code(stream) == 1009
        await healthy(served)


@pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])
async def test_who_may_only_read_sends_no_large_message(tmp_path: Path, v1: bool) -> None:
    protocol = ["sec-websocket-protocol: portico.v1"] if v1 else []
    async with serving(tmp_path) as served:
        await served.session()
        ticket = (await served.client.post("/claude/sessions/s/tickets", json={})).json()["ticket"]
        path = f"/claude/ws/s?ticket={ticket}"
        for sent in (
            frame(TEXT, b'{"type":"query","content":"' + b"x" * STRANGER_BYTES)[:14],  # all but its head is unsent
            frame(TEXT, b"x" * 60_000, fin=False) + frame(CONT, b"x" * 60_000),
        ):
            stream = await served.connect()
            await open_raw(stream, path, *protocol, token=None)
            await stream.send(sent)
            assert await close_code(stream) == 1009
        stream = await served.connect()
        await open_raw(stream, path, *protocol, token=None)
        await stream.send(frame(TEXT, b'{"type":"query","content":"x","id":1}'))
        if v1:
            async for _, data in frames(stream):
                assert json.loads(data)["code"] == "not_allowed"
                break
        else:
            assert await close_code(stream) == 4403
        assert (await served.client.get("/claude/sessions/s")).json()["turns"] == 0


# What is told.


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "sqlite"])
async def test_a_page_of_sessions_ends_where_it_is_long_enough(tmp_path: Path, durable: bool) -> None:
    store = SqliteStore(tmp_path / "portico.db") if durable else MemoryStore()
    metadata = {"text": "x" * 16_000}
    async with serving(tmp_path, store=store) as served:
        names = {await served.session(f"s{number}", metadata=metadata) for number in range(40)}
        found: list[str] = []
        pages = 0
        asked: dict[str, str] = {"limit": "500"}
        while True:
            answer = await served.client.get("/claude/sessions", params=asked)
            assert len(answer.content) < LIST_BYTES + 20 * KIB
            page = answer.json()
            found += [session["session_id"] for session in page["sessions"]]
            pages += 1
            if not page["next_cursor"]:
                break
            asked["cursor"] = page["next_cursor"]
        assert pages == 3
        assert len(found) == 40
        assert set(found) == names


async def test_what_a_session_asks_is_told_in_turns(tmp_path: Path) -> None:
    asks = Ask("Write", {"values": [{"n": number} for number in range(200_000)]})
    async with serving(tmp_path, driver=ScriptedDriver([[asks]])) as served:
        await served.session()
        await served.client.post(TURNS, json={"query": "x"})
        with anyio.fail_after(HANG_SECONDS):
            while (await served.client.get("/claude/sessions/s")).json()["state"] != "waiting":
                await anyio.sleep(0.02)
        for path in ("/claude/sessions/s", "/claude/sessions"):
            async with longest_step() as longest:
                answer = await served.client.get(path)
            assert longest[0] < 0.09
            assert answer.text.count('"n":') == 200_000


# What passes.


@pytest.mark.parametrize(
    "query",
    [
        b'"' + b"\\u0041" * (MIB // 2) + b'"',
        b'"' + b"\\n" * (2 * MIB) + b'x"',
        f'"{"x" + 2 * MIB * chr(0x85)}"'.encode(),
        b'[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"' + b"A" * 4 * MIB + b'"}}]',
        b'"' + b" " * 4 * MIB + b'"',
        b" " * 4 * MIB + b'"x"',
    ],
    ids=["escapes", "line-feeds", "line-breaks", "image", "blanks", "between"],
)
async def test_others_are_served_while_a_large_body_is_worked_on(tmp_path: Path, query: bytes) -> None:
    body = b'{"turn_id":"t","query":' + query + b"}"
    async with serving(tmp_path, max_body=32 * MIB) as served:
        await served.session()
        async with longest_step() as longest:
            answer = await served.client.post(TURNS, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == (422 if query.startswith(b'"  ') else 202)
        assert longest[0] < 0.04
