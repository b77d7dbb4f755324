"""Sessions over WebSockets, as a client sees them: real server, real CLI, scripted model."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script, talk, text
from tests.support.websocket import Client, talking

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = {"words": 40, "say": "w ", "gap_ms": 20}
ENDLESS = {"words": 1000, "say": "w ", "gap_ms": 50}


def write(path: Path) -> str:
    tool = {"name": "Write", "input": {"file_path": str(path), "content": "written"}}
    return script({"tool": tool}, {"say": "after"})


async def test_a_plain_query_is_answered_with_its_turn(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    async with talking(server.url, token=server.token) as socket:
        await socket.send(script({"think": "hm", "say": "one two three"}))
        turn = await socket.until("complete")
    assert text(turn) == "one two three"
    assert (turn[0]["type"], turn[-1]["stop_reason"]) == ("query", "end_turn")
    assert turn == [event for event in await client.history("s") if "turn_id" in event]


async def test_cuts_in_mid_turn_lose_double_and_change_nothing(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script(SLOW), turn_id="t")
    seen: list[Event] = []
    while not seen or seen[-1].get("state") != "idle" or len(seen) < 3:
        after = seen[-1]["seq"] if seen else 0
        async with talking(server.url, f"/claude/ws/s?after={after}", token=server.token, v1=True) as socket:
            for _ in range(7):
                seen.append(await socket.receive())
                if seen[-1].get("state") == "idle" and len(seen) > 2:
                    break
            socket.connection.transport.abort()
    assert seen == await client.history("s")
    assert text(seen).split() == ["w"] * 40


async def test_two_clients_answer_one_permission_and_both_see_who(tmp_path: Path) -> None:
    tokens = "alice:alice-secret-alice,root:root-secret-root:admin"
    async with (
        running_server(tmp_path, PORTICO_AUTH_TOKENS=tokens) as server,
        talk(server, "alice-secret-alice") as client,
    ):
        session = await client.open(session_id="s")
        target = Path(session["cwd"]) / "file.txt"
        async with (
            talking(server.url, token="alice-secret-alice", v1=True) as alice,
            talking(server.url, token="root-secret-root", v1=True) as root,
        ):
            await alice.send({"type": "query", "content": write(target)})
            request = (await alice.until("permission_request"))[-1]
            assert (await root.until("permission_request"))[-1] == request
            answers: dict[str, Event] = {}

            async def answer(name: str, socket: Client) -> None:
                asked = {"type": "permission", "request_id": request["request_id"], "behavior": "allow"}
                answers[name] = await socket.ask(asked)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer, "alice", alice)
                tasks.start_soon(answer, "root", root)
            resolved = only(await client.history("s"), "permission_resolved")
            winner = resolved["principal"]
            loser = {"alice": "root", "root": "alice"}[winner]
            assert answers[winner] == {"type": "ack"}
            lost = answers[loser]
            assert (lost["type"], lost["code"], lost["status"]) == ("nack", "already_resolved", 409)
            assert (lost["principal"], lost["behavior"]) == (winner, "allow")
            await client.until("s", "complete")
            assert target.read_text() == "written"


async def test_a_denial_and_an_interrupt_over_the_socket(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="s")
    target = Path(session["cwd"]) / "file.txt"
    async with talking(server.url, token=server.token, v1=True) as socket:
        await socket.send({"type": "query", "content": write(target)})
        request = (await socket.until("permission_request"))[-1]
        denied = {"request_id": request["request_id"], "behavior": "deny", "message": "not on a Sunday"}
        assert await socket.ask({"type": "permission", **denied}) == {"type": "ack"}
        await socket.until("session", state="idle")
        assert not target.exists()
        await socket.send({"type": "query", "content": script(ENDLESS)})
        await socket.until("delta")
        assert await socket.ask({"type": "interrupt"}) == {"type": "ack"}
        assert (await socket.until("complete"))[-1]["stop_reason"] == "interrupted"
        await socket.send({"type": "query", "content": script({"say": "fine"})})
        assert text(await socket.until("complete")) == "fine"


async def test_all_see_the_same_over_sse_and_websocket(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    seen: list[list[Event]] = []

    async def over_sse() -> None:
        async with client.follow("s") as following:
            found: list[Event] = []
            async for event in following:
                found.append(event)
                if event["type"] == "complete":
                    seen.append(found)
                    return

    async def over_websocket() -> None:
        async with talking(server.url, "/claude/ws/s?after=0", token=server.token, v1=True) as socket:
            seen.append(await socket.until("complete"))

    async with anyio.create_task_group() as tasks:
        for watch in (over_sse, over_websocket, over_sse, over_websocket):
            tasks.start_soon(watch)
        await client.start("s", script(SLOW))
    assert len(seen) == 4 and all(found == seen[0] for found in seen)


async def test_a_drain_lets_the_turn_end_and_closes_with_1001(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        await client.open(session_id="s")
        async with talking(server.url, token=server.token, v1=True) as socket:
            await socket.send({"type": "query", "content": script(SLOW)})
            await socket.until("delta")
            server.process.send_signal(signal.SIGTERM)
            assert (await socket.until("complete"))[-1]["stop_reason"] == "end_turn"
            assert (await socket.closed())[0] == 1001
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0


@pytest.mark.parametrize("mode", ["websocket", "http,websocket", "websocket,http"])
async def test_the_modes_in_which_it_is_served(tmp_path: Path, mode: str) -> None:
    async with running_server(tmp_path, NETWORKING_MODE=mode, PORTICO_AUTH="none") as server:
        alone = mode == "websocket"
        assert server.url.startswith("ws://" if alone else "http://")
        async with talking(server.url, "/claude/ws/nothing", token=None) as socket:
            assert (await socket.closed())[0] == 4404
        assert await status_of_sessions(server) == (404 if alone else 200)


async def status_of_sessions(server: RunningServer) -> int:
    async with server.http() as http:
        url = server.url.replace("ws://", "http://")
        return (await http.get(f"{url}/claude/sessions")).status_code


async def test_who_joins_while_something_is_being_asked_learns_what(server: RunningServer, client: Talk) -> None:
    session = await client.open(session_id="s")
    target = Path(session["cwd"]) / "file.txt"
    await client.start("s", write(target))
    asked = await client.until("s", "permission_request")
    async with talking(server.url, token=server.token, v1=True) as socket:
        assert await socket.receive() == asked
        answer = {"type": "permission", "id": 1, "request_id": asked["request_id"], "behavior": "allow"}
        await socket.send(answer)
        await socket.until("complete")
    assert target.read_text() == "written"
    async with talking(server.url, token=server.token, v1=True) as socket:
        await socket.send({"type": "query", "id": 2, "content": "hello"})
        assert (await socket.receive())["type"] != "permission_request"
