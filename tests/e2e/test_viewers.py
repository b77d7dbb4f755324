"""Several people on one session, over SSE and WebSocket at once: real server, real CLI, scripted model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script, talk, text
from tests.support.websocket import Client, talking

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

TOKENS = "alice:alice-secret-alice,root:root-secret-root:admin"
ALICE, ROOT = "alice-secret-alice", "root-secret-root"
ONE_PROCESS = {"PORTICO_AUTH_TOKENS": TOKENS, "PORTICO_MAX_PROCESSES": "1", "PORTICO_DRIVER": "claude-code,echo"}
ENDLESS = script({"words": 1000, "say": "w ", "gap_ms": 50})


@pytest.fixture(scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path_factory.mktemp("shared"), **ONE_PROCESS) as server:
        yield server


@pytest.fixture
async def server(one: RunningServer) -> AsyncIterator[RunningServer]:
    """A server with one process, whose sessions are purged after each test."""
    yield one
    async with talk(one, ROOT) as admin:
        await admin.purge_all()


def write(path: Path) -> str:
    tool = {"name": "Write", "input": {"file_path": str(path), "content": "written"}}
    # What an encoder or a line reader might change: line separators, an emoji, a lone surrogate, HTML.
    odd = "é \u2028 \u0085 🦊 \ud83e <b> \\ "
    return script({"think": "hm", "say": odd, "tool": tool}, {"say": "after", "words": 20})


class Watcher:
    """The bytes of each event that one viewer of a whole session has got."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.now: Event = {}
        self._news = anyio.Event()

    def add(self, data: bytes) -> None:
        self.seen.append(data)
        self.now = json.loads(data)
        self._news.set()
        self._news = anyio.Event()

    async def reach(self, seq: int) -> list[bytes]:
        """All up to the event ``seq``."""
        with anyio.fail_after(HANG_SECONDS):
            while self.now.get("seq", 0) < seq:
                await self._news.wait()
        return self.seen[: seq - json.loads(self.seen[0])["seq"] + 1]


Watch = Callable[[Watcher], Coroutine[Any, Any, None]]


@asynccontextmanager
async def watching(run: Watch) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, watcher)
        yield watcher
        tasks.cancel_scope.cancel()


def over_sse(http: httpx.AsyncClient, path: str) -> Watch:
    async def run(watcher: Watcher) -> None:
        async with http.stream("GET", path) as answer:
            assert answer.status_code == 200
            rest = b""
            async for chunk in answer.aiter_bytes():
                *frames, rest = (rest + chunk).split(b"\n\n")
                for frame in frames:
                    for line in frame.split(b"\n"):
                        if line.startswith(b"data: "):
                            watcher.add(line.removeprefix(b"data: "))

    return run


def over_websocket(url: str, path: str, token: str, *, v1: bool) -> Watch:
    async def run(watcher: Watcher) -> None:
        async with talking(url, path, token=token, v1=v1) as socket:
            while True:
                watcher.add(await socket.connection.recv(decode=False))

    return run


async def test_all_viewers_see_the_same_bytes_whatever_their_transport(server: RunningServer) -> None:
    async with (
        talk(server, ALICE) as client,
        talk(server, ROOT) as admin,
    ):
        session = await client.open(session_id="s", permission_mode="acceptEdits")
        events, socket = "/sessions/s/events?after=0", "/claude/ws/s?after=0"
        async with (
            watching(over_sse(client.http, events)) as first,
            watching(over_sse(admin.http, events)) as second,
            watching(over_websocket(server.url, socket, ALICE, v1=True)) as third,
            watching(over_websocket(server.url, socket, ROOT, v1=False)) as fourth,
        ):
            asked = {"query": write(Path(session["cwd"]) / "file.txt"), "turn_id": "t"}
            await client.start("s", **asked)
            complete = await client.until("s", "complete")
            last = (await client.until("s", "session", state="idle", after=complete["seq"]))["seq"]
            async with watching(over_sse(client.http, events)) as late:  # all of it from the store
                seen = [await watcher.reach(last) for watcher in (first, second, third, fourth, late)]
            async with watching(over_sse(client.http, f"/stream/s?{urlencode(asked)}")) as turn:
                history = await client.history("s")
                ours = [data for data, event in zip(seen[0], history, strict=True) if event.get("turn_id") == "t"]
                await turn.reach(json.loads(ours[-1])["seq"])
        assert len(seen[0]) == last and all(each == seen[0] for each in seen)
        assert [json.loads(data) for data in seen[0]] == history
        assert turn.seen == ours
        assert {"thinking", "delta", "message", "tool_use", "tool_result"} <= {event["type"] for event in history}


async def test_who_has_asked_and_who_has_answered_is_told_to_all(server: RunningServer) -> None:
    async with (
        talk(server, ALICE) as alice,
        talking_when_open(server.url, alice) as root,
    ):
        folder = Path((await alice.session("s"))["cwd"])
        await alice.start("s", write(folder / "one.txt"))
        request = (await root.until("permission_request"))[-1]
        assert await root.ask({"type": "permission", "request_id": request["request_id"], "behavior": "allow"}) == {
            "type": "ack"
        }
        await root.until("session", state="idle")
        await root.send({"type": "query", "content": write(folder / "two.txt")})
        request = await alice.until("s", "permission_request", after=request["seq"])
        assert (await alice.answer("s", request["request_id"], behavior="deny")).status_code == 200
        await root.until("session", state="idle")
        history = await alice.history("s")
        told = [(e["type"], e["principal"]) for e in history if e["type"] in ("query", "permission_resolved")]
        assert told == [
            ("query", "alice"),
            ("permission_resolved", "root"),
            ("query", "root"),
            ("permission_resolved", "alice"),
        ]
        assert [path.name for path in folder.iterdir()] == ["one.txt"]
        assert (await alice.session("s"))["owner"] == "alice"


@asynccontextmanager
async def talking_when_open(url: str, owner: Talk) -> AsyncIterator[Client]:
    """The admin's WebSocket on a session that ``owner`` opens."""
    await owner.open(session_id="s")
    async with talking(url, token=ROOT, v1=True) as socket:
        yield socket


@pytest.mark.parametrize("asleep", [False, True], ids=["awake", "hibernated in between"])
async def test_two_answer_at_once_over_rest_and_websocket(server: RunningServer, asleep: bool) -> None:
    async with (
        talk(server, ALICE) as alice,
        talking_when_open(server.url, alice) as root,
        watching(over_sse(alice.http, "/sessions/s/events")) as over_http,
    ):
        target = Path((await alice.session("s"))["cwd"]) / "file.txt"
        if asleep:
            await alice.turn("s", "hello")
            await take_the_process(alice)
        await alice.start("s", write(target))
        request = (await root.until("permission_request"))[-1]
        answers: dict[str, dict[str, Any]] = {}

        async def by_rest() -> None:
            answers["alice"] = (await alice.answer("s", request["request_id"], behavior="allow")).json()

        async def by_websocket() -> None:
            denied = {"type": "permission", "request_id": request["request_id"], "behavior": "deny"}
            answers["root"] = await root.ask(denied)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(by_websocket)
            tasks.start_soon(by_rest)
        resolved = only(await alice.history("s"), "permission_resolved")
        loser = {"alice": "root", "root": "alice"}[resolved["principal"]]
        lost = answers.pop(loser)
        assert (lost["code"], lost["status"]) == ("already_resolved", 409)
        assert (lost["principal"], lost["behavior"]) == (resolved["principal"], resolved["behavior"])
        assert resolved["behavior"] == {"alice": "allow", "root": "deny"}[resolved["principal"]]
        assert "code" not in next(iter(answers.values()))
        await alice.until("s", "complete", after=request["seq"])
        assert target.exists() is (resolved["behavior"] == "allow")
        assert json.loads((await over_http.reach(resolved["seq"]))[-1]) == resolved


class Person(ABC):
    """Does over one transport what the tests below have people do."""

    @abstractmethod
    async def ask(self, query: str) -> None: ...
    @abstractmethod
    async def allow(self, request_id: str) -> None: ...
    @abstractmethod
    async def interrupt(self) -> None: ...


class OverHttp(Person):
    def __init__(self, client: Talk) -> None:
        self._client = client

    async def ask(self, query: str) -> None:
        await self._client.start("s", query)

    async def allow(self, request_id: str) -> None:
        assert (await self._client.answer("s", request_id, behavior="allow")).status_code == 200

    async def interrupt(self) -> None:
        assert (await self._client.http.post("/sessions/s/interrupt")).status_code == 202


class OverWebSocket(Person):
    def __init__(self, socket: Client) -> None:
        self._socket = socket

    async def ask(self, query: str) -> None:
        assert (await self._socket.ask({"type": "query", "content": query}))["type"] == "ack"

    async def allow(self, request_id: str) -> None:
        answer = {"type": "permission", "request_id": request_id, "behavior": "allow"}
        assert await self._socket.ask(answer) == {"type": "ack"}

    async def interrupt(self) -> None:
        assert await self._socket.ask({"type": "interrupt"}) == {"type": "ack"}


async def take_the_process(client: Talk) -> None:
    """Another session has the only process afterwards."""
    if (await client.http.get("/sessions/other")).status_code == 404:
        await client.open(session_id="other", driver="echo")
    await client.turn("other", "hello")
    assert (await client.session("s"))["state"] == "hibernated"


@pytest.mark.long
@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_a_session_that_hibernates_between_all_that_is_done_to_it(server: RunningServer, transport: str) -> None:
    async with (
        talk(server, ALICE) as client,
        talking_when_open(server.url, client) as socket,
        watching(over_sse(client.http, "/sessions/s/events")) as by_sse,
        watching(over_websocket(server.url, "/claude/ws/s?after=0", ROOT, v1=True)) as by_websocket,
    ):
        person: Person = OverHttp(client) if transport == "http" else OverWebSocket(socket)
        target = Path((await client.session("s"))["cwd"]) / "file.txt"

        await person.ask("My name is Ada.")
        seq = (await client.until("s", "complete"))["seq"]
        await take_the_process(client)

        await person.ask(write(target))
        request = await client.until("s", "permission_request", after=seq)
        await person.allow(request["request_id"])
        seq = (await client.until("s", "complete", after=seq))["seq"]
        assert target.read_text() == "written"
        await take_the_process(client)

        await person.ask(ENDLESS)
        await client.until("s", "delta", after=seq)
        await person.interrupt()
        complete = await client.until("s", "complete", after=seq)
        assert complete["stop_reason"] == "interrupted"
        await take_the_process(client)

        await person.ask(script({"say": "still here"}))
        seq = (await client.until("s", "complete", after=complete["seq"]))["seq"]
        assert "My name is Ada." in str(server.model.requests[-1].body)

        last = (await client.until("s", "session", state="idle", after=seq))["seq"]
        history = await client.history("s")
        assert await by_sse.reach(last) == await by_websocket.reach(last)
        assert [json.loads(data) for data in by_sse.seen] == history
        assert text([event for event in history if event["seq"] > complete["seq"]]) == "still here"
        assert [event["state"] for event in history if event["type"] == "session"].count("hibernated") == 3


async def test_a_cut_and_a_return_while_the_session_is_hibernated(server: RunningServer) -> None:
    async with talk(server, ALICE) as client:
        await client.open(session_id="s")
        async with talking(server.url, "/claude/ws/s?after=0", token=ALICE, v1=True) as socket:
            await socket.send({"type": "query", "content": script({"words": 20, "say": "w "})})
            before = [event for event in await socket.until("delta") if "seq" in event]
            socket.connection.transport.abort()
        await client.until("s", "complete")
        await take_the_process(client)
        after = before[-1]["seq"]
        async with (
            talking(server.url, f"/claude/ws/s?after={after}", token=ALICE, v1=True) as socket,
            watching(over_sse(client.http, f"/sessions/s/events?after={after}")) as by_sse,
        ):
            missed = await socket.until("session", state="hibernated")
            await socket.send({"type": "query", "content": script({"say": "awake"})})  # by who came back meanwhile
            woken = await socket.until("complete")
            await by_sse.reach(woken[-1]["seq"])
        assert text(woken) == "awake"
        history = await client.history("s")
        assert before + missed + woken == history[: woken[-1]["seq"]]
        assert [json.loads(data) for data in by_sse.seen[: len(missed + woken)]] == missed + woken


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_a_websocket_stays_while_its_session_is_dormant_and_sees_it_wake(tmp_path: Path, transport: str) -> None:
    limits = {"SESSION_TIMEOUT": "0.5", "MAX_SESSIONS": "1", "PORTICO_POOL_SIZE": "0"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await client.open(session_id="s")
        async with talking(server.url, "/claude/ws/s?after=0", token=server.token, v1=True) as early:
            await early.send({"type": "query", "content": "My name is Ada."})
            answered = await early.until("complete")  # it may have been dormant before it was asked
            slept = answered + await early.until("session", state="dormant")
            assert server.count_agents() == 0
            after = slept[-1]["seq"]
            async with talking(server.url, f"/claude/ws/s?after={after}", token=server.token, v1=True) as late:
                assert (await client.session("s"))["state"] == "dormant"  # to be looked at wakes nobody
                if transport == "http":
                    await client.start("s", script({"say": "awake"}))
                else:
                    await late.send({"type": "query", "content": script({"say": "awake"})})
                woken = await early.until("complete")
                assert text(woken) == "awake"
                assert await late.until("complete") == woken
        assert [event for event in slept if "seq" in event] + woken == (await client.history("s"))[: woken[-1]["seq"]]
        assert "My name is Ada." in str(server.model.requests[-1].body)
