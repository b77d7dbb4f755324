"""More sessions than processes: they give their process up, and come back with their whole context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = {"words": 40, "say": "w ", "gap_ms": 50}
ONE_PROCESS = {"PORTICO_MAX_PROCESSES": "1", "PORTICO_POOL_SIZE": "0"}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path_factory.mktemp("shared"), **ONE_PROCESS) as server:
        yield server


async def states(client: Talk, session_id: str) -> list[str]:
    return [event["state"] for event in await client.history(session_id) if event["type"] == "session"]


async def test_the_session_longest_idle_hibernates_and_wakes_with_its_context(
    server: RunningServer, client: Talk
) -> None:
    first = await client.open(session_id="a")
    await client.turn("a", "My name is Ada.")
    await client.open(session_id="b")
    await client.turn("b", "My name is Bob.")
    assert (await client.session("a"))["state"] == "hibernated"
    assert server.count_agents() == 1
    await client.turn("a", "What is my name?")
    asked = str(server.model.requests[-1].body)
    assert "My name is Ada." in asked and "Bob" not in asked
    assert (await client.session("b"))["state"] == "hibernated"
    assert (await client.session("a"))["cwd"] == first["cwd"]
    before = ["idle", "starting", "running", "idle", "hibernated"]
    assert await states(client, "a") == [*before, "starting", "running", "idle"]


async def test_what_is_running_keeps_its_process_and_others_wait_in_their_order(client: Talk) -> None:
    for name in "abc":
        await client.open(session_id=name)
    await client.start("a", script(SLOW), turn_id="a")
    await client.until("a", "delta")
    for name in "bc":
        await client.start(name, script({"say": name}), turn_id=name)
        waiting = await client.until(name, "session", state="starting")
        assert waiting["reason"] == "no_process"
    ends = [await client.until(name, "complete") for name in "abc"]
    assert [end["stop_reason"] for end in ends] == ["end_turn"] * 3
    assert sorted(ends, key=lambda end: str(end["time"])) == ends
    assert text(await client.history("a")).count("w") == 40


async def test_process_wait_ends_a_turn_for_which_no_process_becomes_free(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_PROCESS_WAIT="0.5", **ONE_PROCESS) as server, talk(server) as client:
        await client.open(session_id="a")
        await client.open(session_id="b")
        await client.start("a", script(SLOW))
        await client.until("a", "delta")
        turn = await client.turn("b", "hello")
        assert only(turn, "error")["code"] == "no_capacity"
        assert turn[-1]["stop_reason"] == "error"
        await client.until("a", "complete")
        assert text(await client.turn("b", script({"say": "now"}))) == "now"


async def test_an_interrupt_ends_the_wait_for_a_process(client: Talk) -> None:
    await client.open(session_id="a")
    await client.open(session_id="b")
    await client.start("a", script(SLOW))
    await client.until("a", "delta")
    await client.start("b", "hello")
    await client.until("b", "session", state="starting")
    assert (await client.http.post("/sessions/b/interrupt")).status_code == 202
    assert (await client.until("b", "complete"))["stop_reason"] == "interrupted"
    assert (await client.session("a"))["state"] == "running"


async def test_an_idle_session_goes_dormant_frees_its_slot_and_comes_back(tmp_path: Path) -> None:
    limits = {"SESSION_TIMEOUT": "1", "MAX_SESSIONS": "1", "PORTICO_POOL_SIZE": "0"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        session = await client.open(session_id="a", permission_mode="acceptEdits", model="claude-opus-5-5")
        await client.turn("a", "My name is Ada.")
        dormant = await client.until("a", "session", state="dormant")
        assert (await client.session("a"))["state"] == "dormant"
        assert server.count_agents() == 0
        await client.open(session_id="b")
        full = await client.http.post("/sessions/a/turns", json={"query": "hello"})
        assert (full.status_code, full.json()["code"]) == (429, "too_many_sessions")
        assert (await client.http.delete("/sessions/b")).status_code == 204
        target = Path(session["cwd"]) / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
        async with client.follow("a", after=dormant["seq"]) as following:  # attached before it comes back
            await client.start("a", script({"tool": tool}, {"say": "back"}))
            with anyio.fail_after(HANG_SECONDS):
                async for event in following:
                    if event["type"] == "complete":
                        break
        assert target.read_text() == "x"  # nobody was asked: its mode was kept
        body = server.model.requests[-1].body
        assert body is not None and body["model"] == "claude-opus-5-5" and "My name is Ada." in str(body)


async def test_a_dormant_session_can_be_closed_and_renamed(tmp_path: Path) -> None:
    async with running_server(tmp_path, SESSION_TIMEOUT="0.3") as server, talk(server) as client:
        await client.open(session_id="a")
        await client.until("a", "session", state="dormant")
        renamed = await client.http.patch("/sessions/a", json={"title": "new"})
        assert (renamed.json()["title"], renamed.json()["state"]) == ("new", "dormant")
        assert (await client.http.delete("/sessions/a")).status_code == 204
        assert (await client.session("a"))["state"] == "closed"
