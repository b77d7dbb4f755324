"""A call that began with one session does not go on with the next one of the same id, over any transport.

An admin's requests show it best: an admin may use both sessions, and means one of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from websockets.frames import Opcode

from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn
from portico.core.state import State
from portico.core.store import EventStore
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.store import event, record
from tests.support.held import Holds
from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, get, read_all, serving
from tests.support.websocket import frame as raw_frame
from tests.support.websocket import frames, open_raw, talking

pytestmark = pytest.mark.anyio

ALICE, BOB = Principal("alice"), Principal("bob")
ROOT = {"authorization": "Bearer admin-secret"}
UNKNOWN = {
    "type": "urn:portico:problem:session_not_found",
    "title": "Not Found",
    "status": 404,
    "detail": "there is no session 's'",
    "code": "session_not_found",
}


async def put(store: EventStore, owner: str = "alice", size: int = 20) -> None:
    """A dormant session, so that whoever looks for it waits for the store; a turn of it is over."""
    events = [event(1, "query", "t"), *(event(n, "delta", "t", b"%0*d" % (size, n)) for n in range(2, 18))]
    await store.create(record("s", agent_id=f"{owner}'s", owner=owner, state=State.DORMANT))
    await store.append("s", 0, [*events, event(18, "complete", "t")], None)


async def replace_session(served: Served, words: str = "bob's words") -> None:
    await served.engine.close(ALICE, "s", purge=True)
    await served.engine.create(BOB, NewSession(session_id="s", title="bob's"))
    await served.engine.query(BOB, "s", NewTurn(words, "t"))
    reader = await served.engine.reader(BOB, "s", turn_id="t")
    while await reader.read():
        pass


async def assert_untouched(served: Served) -> None:
    found = await served.engine.session(BOB, "s")
    assert (found["title"], found["turns"], found["state"]) == ("bob's", 1, "idle")


@asynccontextmanager
async def holding(folder: Path, **options: Any) -> AsyncIterator[tuple[Served, Holds]]:
    holds = Holds(MemoryStore())
    with anyio.fail_after(HANG_SECONDS):
        async with serving(folder, store=holds.store, **options) as served:
            yield served, holds


REQUESTS = [
    ("PATCH", "/sessions/s", {"title": "taken"}, 2),
    ("POST", "/stream/s", {"query": "x", "turn_id": "t"}, 3),
    ("GET", "/stream/s?query=x&turn_id=t", None, 3),
    ("GET", "/sessions/s/events", None, 3),
    ("POST", "/sessions/s/turns", {"query": "x"}, 2),
    ("DELETE", "/sessions/s?purge=true", None, 1),
]
"""Requests that look for their session more than once, and how often."""


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize(
    ("method", "path", "body", "nth"),
    [(method, path, body, nth) for method, path, body, looks in REQUESTS for nth in range(1, looks + 1)],
)
async def test_a_request_is_about_one_session(
    tmp_path: Path, method: str, path: str, body: Any, nth: int, late: bool
) -> None:
    async with holding(tmp_path) as (served, holds):
        await put(holds.store)
        hold = holds.hold("get", nth=nth, late=late)
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await served.client.request(method, f"/claude{path}", json=body, headers=ROOT))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await hold.reached.wait()
            await replace_session(served)
            hold.release()
        assert (answers[0].status_code, answers[0].json()) == (404, UNKNOWN)
        await assert_untouched(served)


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
async def test_a_websocket_begins_with_one_session(tmp_path: Path, v1: bool, nth: int, late: bool) -> None:
    async with holding(tmp_path) as (served, holds):
        await put(holds.store)
        hold = holds.hold("get", nth=nth, late=late)
        async with talking(served.url, token="admin-secret", v1=v1) as client:
            await hold.reached.wait()
            await replace_session(served)
            hold.release()
            assert (await client.closed())[0] == 4404
        await assert_untouched(served)


FRAMES = [{"type": "query", "content": "mine"}, {"type": "resume", "after": 0}]


async def until_close(stream: SocketStream) -> AsyncIterator[bytes]:
    async for opcode, data in frames(stream):
        if opcode == Opcode.CLOSE:
            return
        yield data


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
async def test_a_websocket_that_outlives_its_session_is_not_taken_over_to_the_next(
    tmp_path: Path, frame: dict[str, Any]
) -> None:
    """A client that reads nothing keeps the server sending, and the connection open, however long its session is over.

    What it says meanwhile is heard.
    """
    async with holding(tmp_path) as (served, holds):
        await put(holds.store, size=1_000_000)  # more than fits between the two of them
        stream = await served.connect()
        await open_raw(stream, "/claude/ws/s?after=0", "sec-websocket-protocol: portico.v1", token="admin-secret")
        await anyio.wait_all_tasks_blocked()
        await served.engine.close(ALICE, "s", purge=True)
        await put(holds.store, "bob")  # dormant, so that it can be seen that the frame is heard
        hold = holds.hold("get")
        await stream.send(raw_frame(Opcode.TEXT, json.dumps({**frame, "id": 1}).encode()))
        await hold.reached.wait()
        hold.release()
        await anyio.wait_all_tasks_blocked()
        said = [data async for data in until_close(stream)]
        told = [json.loads(data) for data in said if b'"id":1' in data]
        assert [(answer["type"], answer["code"]) for answer in told] == [("nack", "session_not_found")]
        kept = await holds.store.get("s")
        assert kept is not None and (kept.owner, kept.last_seq, kept.state) == ("bob", 18, State.DORMANT)


async def test_a_stream_that_is_behind_tells_nothing_of_the_next_session_of_the_id(tmp_path: Path) -> None:
    """A client that reads nothing until its session is purged, and the next one has events of the same numbers."""
    async with holding(tmp_path) as (served, holds):
        await put(holds.store, size=1_000_000)
        stream = await served.raw(get("/claude/sessions/s/events", "connection: close"))
        await anyio.wait_all_tasks_blocked()
        await replace_session(served, "bob's " * 50)
        told = await read_all(stream)
        assert b'"type":"gap"' in told and b"bob" not in told


async def test_a_ticket_is_for_its_session_however_slowly_a_body_comes(tmp_path: Path) -> None:
    async with holding(tmp_path) as (served, holds):
        await put(holds.store)
        made = await served.client.post("/claude/sessions/s/tickets", json={"scope": "query"}, headers=ROOT)
        body = json.dumps({"query": "mine"}).encode()
        head = f"POST /claude/sessions/s/turns?ticket={made.json()['ticket']} HTTP/1.1\r\nhost: localhost\r\n"
        head += f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        look = holds.hold("get")
        stream = await served.raw(head.encode() + body[:5])
        await look.reached.wait()
        look.release()
        await anyio.wait_all_tasks_blocked()  # the ticket was looked at, and the rest of the body is waited for
        await replace_session(served)
        await stream.send(body[5:])
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 404 ") and answer.endswith(
            json.dumps(UNKNOWN, separators=(",", ":")).encode()
        )
        await assert_untouched(served)


async def test_an_id_that_is_taken_is_all_that_is_told(tmp_path: Path) -> None:
    async with holding(tmp_path) as (served, holds):
        told = set()
        for state in State:
            fields: dict[str, Any] = {"owner": "bob", "state": state, "title": "secret", "metadata": {"a": "secret"}}
            await holds.store.create(record(f"{state}", **fields))
            answer = await served.client.post("/claude/sessions", json={"session_id": f"{state}"})
            assert answer.status_code == 409
            told.add(answer.text.replace(f"'{state}'", "ID"))
            shown = {name for name in answer.headers if name not in ("date", "content-length")}
        await served.engine.create(BOB, NewSession(session_id="live"))
        answer = await served.client.post("/claude/sessions", json={"session_id": "live"})
        told.add(answer.text.replace("'live'", "ID"))
        (only,) = told
        assert json.loads(only) == {
            "type": "urn:portico:problem:session_exists",
            "title": "Conflict",
            "status": 409,
            "detail": "session ID exists already",
            "code": "session_exists",
        }
        unknown = await served.client.get("/claude/sessions/never")
        assert shown == {name for name in unknown.headers if name not in ("date", "content-length")}


HELD = [
    ("POST", "/stream/s", {"query": "x", "turn_id": "mine"}, "bind"),
    ("POST", "/stream/s", {"query": "x", "turn_id": "t"}, "query"),
    ("GET", "/stream/s?query=x&turn_id=t", None, "query"),
    ("GET", "/sessions/s/events", None, "bind"),
    ("GET", "/sessions/s/events", None, "session"),
]


@pytest.mark.parametrize(("method", "path", "body", "call"), HELD)
async def test_a_request_that_calls_the_engine_again_is_about_the_same_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any, call: str
) -> None:
    """However long there is between two of its calls."""
    async with holding(tmp_path) as (served, holds):
        await put(holds.store)
        found, called, go_on = getattr(served.engine, call), anyio.Event(), anyio.Event()

        async def held(*args: Any, **options: Any) -> Any:
            result = await found(*args, **options)
            called.set()
            await go_on.wait()
            return result

        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await served.client.request(method, f"/claude{path}", json=body, headers=ROOT))

        async with anyio.create_task_group() as tasks:
            monkeypatch.setattr(served.engine, call, held)
            tasks.start_soon(ask)
            await called.wait()
            monkeypatch.undo()
            await replace_session(served)
            go_on.set()
        assert (answers[0].status_code, answers[0].json()) == (404, UNKNOWN)
        await assert_untouched(served)
