"""Tickets: one session, for a while, to read or also to ask; against a real server."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e.test_reload import reload
from tests.support.limits import HANG_SECONDS
from tests.support.places import PLACES
from tests.support.server import RunningServer, running_server
from tests.support.sse import events
from tests.support.talk import Talk, talk
from tests.support.websocket import talking

pytestmark = [pytest.mark.anyio, PLACES]

TOKENS = "alice:alice-secret,bob:bob-secret,root:root-secret:admin"


@pytest.fixture(scope="module")
async def shared(place: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    folder = tmp_path_factory.mktemp("shared")
    async with running_server(folder, "--driver", "echo", PORTICO_AUTH_TOKENS=TOKENS, **place) as server:
        yield server


@pytest.fixture
async def server(shared: RunningServer) -> AsyncIterator[RunningServer]:
    yield shared
    async with talk(shared, "root-secret") as root:
        await root.purge_all()


ASK = json.dumps({"ask": {"tool_name": "Write", "input": {"file_path": "a"}}})
Answer = tuple[int, str]


async def ticket(client: Talk, session_id: str = "s", **body: Any) -> str:
    answer = await client.http.post(f"/sessions/{session_id}/tickets", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    assert set(made) == {"ticket", "expires_at"} and answer.headers["cache-control"] == "no-store"
    left = datetime.fromisoformat(made["expires_at"]).timestamp() - time.time()
    assert 0 < body.get("ttl", 3600) - left + 1 < 20
    return made["ticket"]


async def told(server: RunningServer, text: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """The status, and the code of the problem if it is one."""
    url = f"{server.api}{path}{'&' if '?' in path else '?'}ticket={text}"
    async with httpx.AsyncClient(timeout=HANG_SECONDS, trust_env=False) as http:
        async with http.stream(method, url, json=body, headers=headers) as answer:
            if "problem" not in answer.headers.get("content-type", ""):
                return answer.status_code, ""
            return answer.status_code, json.loads(await answer.aread())["code"]


async def closed(server: RunningServer, text: str, path: str = "/claude/ws/s", *, v1: bool = True) -> int:
    async with talking(server.url, f"{path}?ticket={text}", token=None, v1=v1) as client:
        return (await client.closed())[0]


def changed(text: str) -> str:
    """The same ticket, but for a bit of what it says."""
    return ("f" if text[10] != "f" else "g").join((text[:10], text[11:]))


async def test_what_a_ticket_opens_and_what_it_does_not(server: RunningServer) -> None:
    async with talk(server, "alice-secret") as alice, talk(server, "root-secret") as root:
        await alice.open(session_id="s")
        await alice.open(session_id="other")
        await alice.turn("s", "hello", turn_id="t")
        reading, asking = await ticket(alice), await ticket(alice, scope="query", ttl=60)
        before = (await alice.session("s"))["turns"]
        query = {"query": "more", "turn_id": "never"}
        for text, status in ((reading, 403), (asking, None)):
            assert await told(server, text, "GET", "/sessions/s") == (200, "")
            assert await told(server, text, "GET", "/sessions/s/events?live=false") == (200, "")
            assert await told(server, text, "GET", "/sessions/s/events") == (200, "")
            back = {"Last-Event-ID": "3"}
            assert await told(server, text, "GET", "/stream/s?query=hello&turn_id=t", **back) == (200, "")
            if status:
                for method, path, body in (
                    ("GET", "/stream/s?query=more&turn_id=never", None),
                    ("POST", "/stream/s", query),
                    ("POST", "/sessions/s/turns", query),
                    ("DELETE", "/sessions/s/turns/t", None),
                    ("POST", "/sessions/s/interrupt", None),
                    ("POST", "/sessions/s/permissions/r", {"behavior": "allow"}),
                ):
                    assert await told(server, text, method, path, body) == (403, "not_allowed"), path
                assert (await alice.session("s"))["turns"] == before
            for method, path, body in (
                ("PATCH", "/sessions/s", {"title": "mine"}),
                ("DELETE", "/sessions/s", None),
                ("POST", "/sessions/s/tickets", {}),
                ("GET", "/sessions", None),
                ("POST", "/sessions", {}),
                ("GET", "/sessions/s/", None),
                ("GET", "/nothing/s", None),
            ):
                assert await told(server, text, method, path, body) == (403, "not_allowed"), path
            for method, path, body in (
                ("GET", "/sessions/other", None),
                ("GET", "/sessions/other/events", None),
                ("GET", "/stream/other?query=x", None),
                ("POST", "/stream/other", query),
                ("POST", "/sessions/nowhere/turns", query),
                ("POST", "/sessions/other/tickets", {}),
            ):
                assert await told(server, text, method, path, body) == (404, "session_not_found"), path
            assert await closed(server, text, "/claude/ws/other") == 4404
            for wrong in (changed(text), text[:-1], f"{text}A", "", ".", "x" * 10_000, "\u00e9.\u00e9"):
                assert await told(server, wrong, "GET", "/sessions/s") == (401, "unauthenticated"), wrong
            assert await closed(server, changed(text)) == 4401
            assert await told(server, text, "GET", f"/sessions/s?ticket={text}") == (400, "malformed")
        wrongs: list[dict[str, Any]] = [{"ttl": 0}, {"ttl": 86_401}, {"ttl": 1.5}, {"scope": "admin"}, {"more": 1}]
        for wrong_body in wrongs:
            assert (await alice.http.post("/sessions/s/tickets", json=wrong_body)).status_code == 422
        # What an admin's ticket opens is that one session too.
        assert await told(server, await ticket(root), "GET", "/sessions/other") == (404, "session_not_found")
    log = (server.home.parent / "server.log").read_text()
    assert not any(part in log for text in (reading, asking) for part in text.split("."))
    assert (server.data_dir / "ticket_key").stat().st_mode & 0o777 == 0o600


async def test_with_a_ticket_for_it_one_asks_answers_and_interrupts_as_its_owner(server: RunningServer) -> None:
    async with talk(server, "alice-secret") as alice:
        await alice.open(session_id="s")
        reading, asking = await ticket(alice), await ticket(alice, scope="query")
        url = f"{server.api}/stream/s?query=hello&turn_id=t&ticket={asking}"
        async with httpx.AsyncClient(timeout=HANG_SECONDS, trust_env=False) as http:
            async with http.stream("GET", url) as answer:
                turn = [event async for event in events(answer)]
            assert (turn[0]["principal"], turn[-1]["type"]) == ("alice", "complete")
            again = await http.get(url, headers={"Last-Event-ID": str(turn[-1]["seq"])})
            assert again.status_code == 204
            # Over a WebSocket, framed: a query, its permission, an interrupt.
            async with talking(server.url, f"/claude/ws/s?ticket={asking}", token=None, v1=True) as client:
                assert (await client.ask({"type": "query", "content": ASK}))["type"] == "ack"
                request = (await client.until("permission_request"))[-1]
                url = f"{server.api}/sessions/s/permissions/{request['request_id']}?ticket={asking}"
                # What an answer changes for the rest of the session is as little for tickets as PATCH is.
                always = {"behavior": "allow", "remember": True}
                refused = await http.post(url, json=always)
                assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
                frame = {"type": "permission", "request_id": request["request_id"], **always}
                nack = await client.ask(frame)
                assert (nack["type"], nack["code"], nack["status"]) == ("nack", "not_allowed", 403)
                assert (await client.ask({"type": "auth", "token": "alice-secret"})) == {"type": "ack"}
                assert (await client.ask(frame))["code"] == "not_allowed"  # it is still who came with a ticket
                assert (await alice.session("s"))["state"] == "waiting"
                assert (await http.post(url, json={"behavior": "deny"})).status_code == 200
                resolved = (await client.until("permission_resolved"))[-1]
                assert (resolved["behavior"], resolved["principal"]) == ("deny", "alice")
                await client.until("complete")
                assert (await client.ask({"type": "query", "content": '{"deltas": null, "gap": 0.05}'}))["turn_id"]
                await client.until("delta")
                assert (await client.ask({"type": "interrupt"}))["type"] == "ack"
                await client.until("complete", stop_reason="interrupted")
        turns = (await alice.session("s"))["turns"]
        async with talking(server.url, f"/claude/ws/s?after=0&ticket={reading}", token=None, v1=True) as client:
            await client.until("complete", turn_id="t")
            for frame in ({"type": "query", "content": "x"}, {"type": "interrupt"}, {"type": "permission"}):
                nack = await client.ask(frame)
                assert (nack["type"], nack["code"], nack["status"]) == ("nack", "not_allowed", 403), frame
            assert (await client.ask({"type": "resume", "after": 0}))["type"] == "ack"
        async with talking(server.url, f"/claude/ws/s?ticket={reading}", token=None) as client:
            await client.send("a query")
            assert (await client.closed())[0] == 4403
        assert (await alice.session("s"))["turns"] == turns


async def test_what_a_ticket_outlives_and_what_it_does_not(tmp_path: Path, place: dict[str, str]) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:alice-secret\nbob:bob-secret\n")
    settings = {"PORTICO_AUTH_TOKENS": f"@{tokens}", "PORTICO_DATA_DIR": str(tmp_path / "data"), **place}
    (tmp_path / "first").mkdir()
    async with running_server(tmp_path / "first", "--driver", "echo", **settings) as server:
        async with talk(server, "alice-secret") as alice:
            for name in ("s", "gone"):
                await alice.open(session_id=name)
            lasting, of_gone = await ticket(alice), await ticket(alice, "gone")
            async with httpx.AsyncClient(base_url=server.api, timeout=HANG_SECONDS, trust_env=False) as http:
                for ttl in (1, 2, 4, 8, 16):  # on a busy machine the shortest may be over before it is used
                    short = await ticket(alice, ttl=ttl)
                    async with http.stream("GET", f"/sessions/s/events?ticket={short}") as stream:
                        if stream.status_code == 401:
                            continue
                        with anyio.fail_after(HANG_SECONDS):  # it is ended once the ticket has expired
                            assert [event["type"] async for event in events(stream)] == ["session"]
                        break
            assert await told(server, short, "GET", "/sessions/s") == (401, "unauthenticated")
            assert await closed(server, short) == 4401
            # A session of the same id is another one.
            await alice.http.delete("/sessions/gone")
            assert await told(server, of_gone, "GET", "/sessions/gone") == (401, "unauthenticated")
            assert (await alice.http.post("/sessions/gone/tickets")).json()["code"] == "session_closed"
            await alice.http.delete("/sessions/gone?purge=true")
            await alice.open(session_id="gone")
            assert await told(server, of_gone, "GET", "/sessions/gone") == (401, "unauthenticated")
    (tmp_path / "second").mkdir()
    async with running_server(tmp_path / "second", "--driver", "echo", **settings) as server:
        assert await told(server, lasting, "GET", "/sessions/s") == (200, "")
        async with (
            httpx.AsyncClient(base_url=server.api, timeout=HANG_SECONDS, trust_env=False) as http,
            http.stream("GET", f"/sessions/s/events?ticket={lasting}") as stream,
            http.stream("GET", "/sessions/s/events", headers={"Authorization": "Bearer alice-secret"}) as own,
            talking(server.url, token="alice-secret") as socket,
        ):
            tokens.write_text("bob:bob-secret\n")
            await reload(server)
            assert await told(server, lasting, "GET", "/sessions/s") == (401, "unauthenticated")
            with anyio.fail_after(HANG_SECONDS):  # what she has open ends too
                for answer in (stream, own):
                    assert {event["type"] async for event in events(answer)} == {"session"}
                assert (await socket.closed())[0] == 4401
