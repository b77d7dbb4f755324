"""A principal sees and steers its own sessions; an admin all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from starlette.routing import Route

from portico.core.intake import Intake
from portico.core.tickets import Tickets
from portico.transports.ability_routes import AbilityRoutes
from portico.transports.session_routes import SessionRoutes
from portico.transports.sse import EventRoutes
from portico.transports.streams import Streams
from portico.transports.websocket import WebSocketRoutes
from portico.transports.work_routes import WorkRoutes
from tests.support.limits import HANG_SECONDS
from tests.support.places import PLACES
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, script, talk
from tests.support.websocket import talking

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

TOKENS = "alice:alice-secret-alice,bob:bob-secret-bob-bob,root:root-secret-root:admin"


@pytest.fixture(scope="module")
async def shared(place: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    settings = {"PORTICO_AUTH_TOKENS": TOKENS, "PORTICO_DRIVER": "claude-code,echo", **place}
    async with running_server(tmp_path_factory.mktemp("shared"), **settings) as server:
        yield server


@pytest.fixture
async def server(shared: RunningServer) -> AsyncIterator[RunningServer]:
    """A server in a place, whose sessions are purged after each test."""
    yield shared
    async with talk(shared, "root-secret-root") as root:
        await root.purge_all()


@PLACES
async def test_what_is_somebody_elses_is_unknown(server: RunningServer) -> None:
    async with (
        talk(server, "alice-secret-alice") as alice,
        talk(server, "bob-secret-bob-bob") as bob,
        talk(server, "root-secret-root") as admin,
    ):
        session = await alice.open(session_id="s")
        assert session["owner"] == "alice"
        await alice.start("s", script({"words": 200, "say": "w ", "gap_ms": 50}), turn_id="t")
        await alice.until("s", "delta")
        attempts = [
            ("GET", "/sessions/s", None),
            ("DELETE", "/sessions/s", None),
            ("GET", "/sessions/s/events?live=false", None),
            ("GET", "/sessions/s/events", None),
            ("GET", "/stream/s?query=x", None),
            ("POST", "/stream/s", {"query": "x"}),
            ("GET", "/stream/s?query=x&turn_id=t", None),
            ("POST", "/sessions/s/turns", {"query": "x"}),
            ("POST", "/sessions/s/interrupt", None),
            ("POST", "/sessions/s/permissions/r", {"behavior": "allow"}),
        ]
        for method, path, body in attempts:
            other = await bob.http.request(method, path, json=body)
            assert (other.status_code, other.json()["code"]) == (404, "session_not_found"), path
        assert (await bob.http.get("/sessions")).json()["sessions"] == []
        assert (await bob.http.post("/sessions", json={"session_id": "s"})).status_code == 409
        assert len((await admin.http.get("/sessions")).json()["sessions"]) == 1
        assert (await admin.http.post("/sessions/s/interrupt")).status_code == 202
        complete = await alice.until("s", "complete")
        assert complete["stop_reason"] == "interrupted"
        assert (await alice.session("s"))["turns"] == 1


@PLACES
async def test_without_a_token_or_with_a_wrong_one_nobody_gets_in(server: RunningServer) -> None:
    token = "root-secret-root"
    async with talk(server, "wrong") as client:
        wrong = await client.http.get("/sessions")
        client.http.headers.pop("Authorization")
        none = await client.http.get("/sessions")
        in_url = await client.http.get(f"/sessions?token={token}&access_token={token}")
        for answer in (wrong, none, in_url):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await client.http.get(f"{server.url}/healthz")).status_code == 200
        assert (await client.http.get(f"{server.url}/readyz")).status_code == 200


class Crowd:
    """Many requests at once, each over a connection of its own, opened before."""

    def __init__(self, server: RunningServer, token: str, method: str, path: str, body: Any) -> None:
        self.answers: Counter[str] = Counter()
        self._port = int(server.url.rpartition(":")[2])
        text = json.dumps(body)
        lines = [f"{method} /claude{path} HTTP/1.1", "host: localhost", f"authorization: Bearer {token}"]
        lines += ["content-type: application/json", "connection: close", f"content-length: {len(text)}"]
        self._request = ("\r\n".join(lines) + f"\r\n\r\n{text}").encode()
        self._streams: list[SocketStream] = []

    async def gather(self, count: int) -> None:
        self._streams = [await anyio.connect_tcp("127.0.0.1", self._port) for _ in range(count)]

    async def ask(self) -> None:
        async with anyio.create_task_group() as tasks:
            for stream in self._streams:
                tasks.start_soon(self._ask, stream)

    async def _ask(self, stream: SocketStream) -> None:
        async with stream:
            await stream.send(self._request)
            answer = b""
            with suppress(anyio.EndOfStream):
                while True:
                    answer += await stream.receive()
        status, code = answer.split(b" ", 2)[1].decode(), re.search(rb'"code":"(\w+)"', answer)
        self.answers[f"{status} {code[1].decode()}" if code else status] += 1


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_changes_that_wait_do_not_reach_the_next_session_of_the_id(tmp_path: Path) -> None:
    """Alice's changes queue, she purges the session, and Bob makes one of that id as soon as it is to be had."""
    async with (
        running_server(tmp_path, PORTICO_AUTH_TOKENS=TOKENS) as server,
        talk(server, "alice-secret-alice") as alice,
        talk(server, "bob-secret-bob-bob") as bob,
    ):

        async def take(session: dict[str, Any]) -> None:
            while (made := await bob.http.post("/sessions", json={"session_id": "s"})).status_code == 409:
                pass
            session |= made.raise_for_status().json()

        asked: Counter[str] = Counter()
        for last in (False, False, False, True):
            mine: dict[str, Any] = {}
            await alice.open(session_id="s")
            body = {"title": "taken", "metadata": {"by": "alice"}, "permission_mode": "acceptEdits"}
            crowd = Crowd(server, "alice-secret-alice", "PATCH", "/sessions/s", body)
            await crowd.gather(100)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(crowd.ask)
                while (await alice.session("s"))["title"] is None:  # the first of them is served
                    pass
                tasks.start_soon(alice.http.delete, "/sessions/s?purge=true")
                tasks.start_soon(take, mine)
            asked += crowd.answers
            found = await bob.session("s")
            assert (found["title"], found["metadata"], found["permission_mode"]) == (None, {}, "default")
            target = Path(found["cwd"]) / "file.txt"
            if last:  # the mode is the agent's too: with ``acceptEdits`` it would not ask
                tool = {"name": "Write", "input": {"file_path": str(target), "content": "written"}}
                await bob.start("s", script({"tool": tool}), turn_id="t")
                await bob.until("s", "permission_request")
                assert not target.exists()
            assert (await bob.http.delete("/sessions/s?purge=true")).status_code == 204
        assert asked.keys() <= {"200", "404 session_not_found", "409 session_closed"}
        assert asked["200"] and asked["404 session_not_found"]
        noted: Counter[str] = Counter()
        with anyio.fail_after(HANG_SECONDS):
            while noted["ok"] < asked["200"] or noted["session_closed"] < asked["409 session_closed"]:
                await anyio.sleep(0.02)
                lines = [json.loads(line) for line in (server.data_dir / "audit.jsonl").read_bytes().splitlines()]
                changes = [line for line in lines if line["action"] == "session.change"]
                noted = Counter(line["outcome"] for line in changes)
        assert (noted["ok"], noted["session_closed"]) == (asked["200"], asked["409 session_closed"])
        assert {line["principal"] for line in changes} == {"alice"}


TABLE: dict[tuple[str, str], Any] = {
    ("GET", "/sessions/ID"): None,
    ("GET", "/sessions/ID/events"): None,
    ("GET", "/sessions/ID/events/1"): None,
    ("GET", "/stream/ID"): None,
    ("POST", "/stream/ID"): {"query": "x"},
    ("POST", "/sessions/ID/turns"): {"query": "x"},
    ("DELETE", "/sessions/ID/turns/T"): None,
    ("POST", "/sessions/ID/interrupt"): None,
    ("POST", "/sessions/ID/permissions/R"): {"behavior": "allow"},
    ("DELETE", "/sessions/ID/permission_rules/P"): None,
    ("POST", "/sessions/ID/tickets"): {},
    ("POST", "/sessions/ID/fork"): {},
    ("POST", "/sessions/ID/rewind"): {"turn_id": "T"},
    ("GET", "/sessions/ID/context"): None,
    ("GET", "/sessions/ID/commands"): None,
    ("GET", "/sessions/ID/mcp"): None,
    ("POST", "/sessions/ID/tasks/A/stop"): None,
    ("DELETE", "/sessions/ID/schedules/S"): None,
    ("PATCH", "/sessions/ID"): {"title": "mine now"},
    ("DELETE", "/sessions/ID"): None,
}
"""Every route of a session; its body."""
ANYBODYS = {("GET", "/sessions"), ("POST", "/sessions"), ("GET", "/ws/ID"), ("GET", "/models")}
MISSING = ("request_not_found", "rule_not_found", "task_not_found", "schedule_not_found")


def test_the_table_has_every_route(tmp_path: Path) -> None:
    engine, tickets = cast(Any, None), Tickets(b"")
    routes = [*SessionRoutes(engine, "", 1, tickets).routes(), *EventRoutes(engine, Streams(), "", 1).routes()]
    routes += [*AbilityRoutes(engine, "").routes(), *WorkRoutes(engine, "").routes()]
    routes += [
        cast(Route, each) for each in WebSocketRoutes(engine, Streams(), cast(Any, None), "", Intake()).routes()[1:]
    ]
    names = {"{session_id}": "ID", "{turn_id}": "T", "{request_id}": "R", "{rule_id}": "P", "{task_id}": "A"}
    names |= {"{schedule_id}": "S", "{seq}": "1"}
    found = set()
    for route in routes:
        path = re.sub(r"\{\w+\}", lambda name: names[name[0]], route.path)
        found |= {(method, path) for method in cast(Any, route.endpoint).handlers if method != "HEAD"}
    assert found == TABLE.keys() | ANYBODYS


@PLACES
async def test_every_route_knows_its_owner(server: RunningServer) -> None:
    async with (
        talk(server, "alice-secret-alice") as alice,
        talk(server, "bob-secret-bob-bob") as bob,
        talk(server, "root-secret-root") as root,
        httpx.AsyncClient(base_url=server.api, timeout=HANG_SECONDS, trust_env=False) as nobody,
    ):
        for session_id in ("hers", "hers-too"):
            await alice.open(session_id=session_id, driver="echo")
            await alice.turn(session_id, "hello", turn_id="T")
        await bob.open(session_id="his", driver="echo")
        made = await bob.http.post("/sessions/his/tickets", json={"scope": "query"})
        strangers = ((bob.http, ""), (nobody, f"ticket={made.json()['ticket']}"))
        before = await alice.history("hers")
        for (method, path), body in TABLE.items():
            for client, ticket in strangers:
                for session_id in ("hers", "nowhere"):
                    url = f"{path.replace('ID', session_id)}?{ticket}"
                    url += "&query=x" if (method, path) == ("GET", "/stream/ID") else ""
                    answer = await client.request(method, url, json=body)
                    told = answer.json()
                    assert (answer.status_code, told["code"]) == (404, "session_not_found"), (method, path, ticket)
                    assert "alice" not in answer.text and told["detail"] == f"there is no session {session_id!r}"
            assert (await nobody.request(method, path.replace("ID", "hers"), json=body)).status_code == 401
        for path in ("/claude/ws/hers", "/claude/ws/nowhere", "/claude/ws/hers?after=0"):
            for v1 in (True, False):
                async with talking(server.url, path, token="bob-secret-bob-bob", v1=v1) as socket:
                    assert (await socket.closed())[0] == 4404
        for state in ("", "?state=idle", "?limit=500"):
            listed = (await bob.http.get(f"/sessions{state}")).json()["sessions"]
            assert [session["session_id"] for session in listed] == ["his"]
        assert await alice.history("hers") == before
        assert (await alice.session("hers"))["title"] is None
        # The owner and an admin are let through, each to another session of hers.
        for who, session_id in ((alice, "hers"), (root, "hers-too")):
            async with talking(server.url, f"/claude/ws/{session_id}?after=0", v1=True, token=token_of(who)) as socket:
                await socket.until("complete")
            for (method, path), body in TABLE.items():
                url = f"{path.replace('ID', session_id)}{'?query=x' if path == '/stream/ID' and body is None else ''}"
                async with who.http.stream(method, url, json=body) as answer:
                    assert answer.status_code in (200, 201, 202, 204, 409) or (
                        answer.status_code == 404 and json.loads(await answer.aread())["code"] in MISSING
                    ), (method, path, answer.status_code)
        assert {session["owner"] for session in (await root.http.get("/sessions")).json()["sessions"]} == {
            "alice",
            "bob",
        }


def token_of(client: Talk) -> str:
    return client.http.headers["Authorization"].removeprefix("Bearer ")
