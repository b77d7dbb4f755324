"""Agents that die, that can't start, or that leave children behind. Real server, real CLI."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.agents import gone_soon, processes_with, unique_seconds
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


async def test_killed_in_mid_turn_the_turn_ends_in_an_error_and_the_next_one_remembers(
    server: RunningServer, client: Talk
) -> None:
    await client.open(session_id="s")
    await client.turn("s", "My name is Ada.")
    await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 50}), turn_id="cut")
    await client.until("s", "delta", turn_id="cut")
    server.kill_agents()
    complete = await client.until("s", "complete", turn_id="cut")
    assert complete["stop_reason"] == "error"
    assert only(await client.history("s"), "error")["code"] == "agent_exited"
    turn = await client.turn("s", script({"say": "back"}))
    assert text(turn) == "back"
    assert only(turn, "notice")["name"] == "agent_restarted"
    assert "My name is Ada." in str(server.model.requests[-1].body)


async def test_killed_in_its_first_turn_the_session_starts_afresh(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 50}))
    await client.until("s", "delta")
    server.kill_agents()
    await client.until("s", "complete")
    assert text(await client.turn("s", script({"say": "back"}))) == "back"


async def test_killed_between_turns_the_session_says_so_and_goes_on(server: RunningServer, client: Talk) -> None:
    await client.open(session_id="s")
    await client.turn("s", "My name is Ada.")
    server.kill_agents()
    await client.until("s", "notice", name="agent_exited")
    assert text(await client.turn("s", script({"say": "back"}))) == "back"
    assert "My name is Ada." in str(server.model.requests[-1].body)


async def test_a_background_task_that_ends_starts_a_turn_of_its_own(client: Talk) -> None:
    command = {"command": "sleep 1; echo ready", "run_in_background": True}
    await client.open(session_id="s", permission_mode="acceptEdits", allowed_tools=["Bash"])
    turn = await client.turn("s", script({"tool": {"name": "Bash", "input": command}}, {"say": "started"}))
    query = await client.until("s", "query", after=turn[-1]["seq"])
    assert query["principal"] is None and query["turn_id"] != turn[0]["turn_id"]
    complete = await client.until("s", "complete", after=query["seq"])
    assert (complete["turn_id"], complete["stop_reason"]) == (query["turn_id"], "end_turn")


@pytest.mark.parametrize(("content", "code"), [(None, "cli_not_found"), ("not a program", "cli_not_executable")])
async def test_without_a_cli_a_session_is_refused_in_words(tmp_path: Path, content: str | None, code: str) -> None:
    cli = tmp_path / "claude"
    if content is not None:
        cli.write_text(content)
    async with running_server(tmp_path, PORTICO_CLAUDE_CLI_PATH=str(cli)) as server, talk(server) as client:
        answer = await client.http.post("/sessions", json={})
        assert (answer.status_code, answer.json()["code"]) == (503, code)
        assert str(cli) in answer.json()["detail"]


async def test_without_a_key_the_turn_says_what_is_missing(tmp_path: Path) -> None:
    async with running_server(tmp_path, ANTHROPIC_API_KEY="") as server, talk(server) as client:
        await client.open(session_id="s")
        turn = await client.turn("s", "hello")
        error = only(turn, "error")
        assert error["code"] == "not_logged_in" and "ANTHROPIC_API_KEY" in error["error"]
        assert turn[-1]["stop_reason"] == "error"


async def strays_of(client: Talk, session_id: str) -> list[psutil.Process]:
    """Processes that a tool of this new session has left running, out of its session and away from its parent."""
    seconds = unique_seconds()
    bash = {"name": "Bash", "input": {"command": f"setsid sleep {seconds} > /dev/null 2>&1 & sleep 0.3"}}
    await client.open(session_id=session_id, allowed_tools=["Bash"])
    turn = await client.turn(session_id, script({"tool": bash}, {"say": "done"}))
    assert turn[-1]["stop_reason"] == "end_turn"
    strays = processes_with(seconds)
    assert strays
    return strays


async def test_nothing_survives_not_even_a_child_that_has_left(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        strays = await strays_of(client, "closed")
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert (await client.http.delete("/sessions/closed")).status_code == 204
        assert gone_soon([*strays, *children])
        strays = await strays_of(client, "stopped")
        children = psutil.Process(server.process.pid).children(recursive=True)
        await server.stop()
        assert gone_soon([*strays, *children])


async def test_nothing_survives_a_server_that_is_killed(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        strays = await strays_of(client, "s")
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGKILL)
        await server.process.wait()
        if not gone_soon([*strays, *children], within=2):  # without a parent-death signal the next start reaps
            (tmp_path / "again").mkdir()
            async with running_server(tmp_path / "again", PORTICO_DATA_DIR=str(server.data_dir)):
                assert gone_soon([*strays, *children])


async def test_closing_a_session_frees_its_slot_and_keeps_its_history(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--max-sessions", "1", "--driver", "echo") as server, talk(server) as client:
        session = await client.open(session_id="a")
        full = await client.http.post("/sessions", json={})
        assert (full.status_code, full.json()["code"]) == (429, "too_many_sessions")
        assert int(full.headers["Retry-After"]) > 0
        await client.turn("a", "kept")
        assert (await client.http.delete("/sessions/a")).status_code == 204
        assert (await client.session("a"))["state"] == "closed"
        closed = await client.http.post("/sessions/a/turns", json={"query": "more"})
        assert (closed.status_code, closed.json()["code"]) == (409, "session_closed")
        taken = await client.http.post("/sessions", json={"session_id": "a"})
        assert (taken.status_code, taken.json()["code"]) == (409, "session_exists")
        assert text(await client.history("a")) == "kept"
        await client.open(session_id="b")
        assert (await client.http.delete("/sessions/a?purge=true")).status_code == 204
        assert (await client.http.get("/sessions/a")).status_code == 404
        assert not await anyio.Path(session["cwd"]).exists()
        assert [each["session_id"] for each in (await client.http.get("/sessions")).json()["sessions"]] == ["b"]


async def test_a_purged_id_may_be_used_again_while_somebody_still_reads_the_old_one(client: Talk) -> None:
    await client.open(session_id="a")
    await client.turn("a", script({"say": "old"}))
    async with client.follow("a") as following:
        assert (await anext(following))["seq"] == 1
        assert (await client.http.delete("/sessions/a?purge=true")).status_code == 204
        await client.open(session_id="a")
        assert text(await client.turn("a", script({"say": "new"}))) == "new"
        rest = [event async for event in following]
    assert "new" not in text(rest)
    history = await client.history("a")
    assert [event["seq"] for event in history] == list(range(1, len(history) + 1))


async def test_closing_in_mid_turn_completes_what_was_accepted(client: Talk) -> None:
    await client.open(session_id="s")
    await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 50}), turn_id="running")
    await client.start("s", "later", turn_id="queued")
    await client.until("s", "delta")
    assert (await client.http.delete("/sessions/s")).status_code == 204
    history = await client.history("s")
    ends = {event["turn_id"]: event["stop_reason"] for event in history if event["type"] == "complete"}
    assert ends == {"running": "interrupted", "queued": "error"}
    assert only(history, "error")["code"] == "session_closed"
    assert history[-1] | {"state": "closed", "type": "session"} == history[-1]


@pytest.mark.long
async def test_killed_at_random_instants_every_turn_ends_once_and_the_session_goes_on(tmp_path: Path) -> None:
    chance = random.Random(11)
    async with running_server(tmp_path, PORTICO_POOL_SIZE="0") as server, talk(server) as client:
        await client.open(session_id="s")
        for n in range(20):
            await client.start("s", script({"words": 40, "say": "w ", "gap_ms": 10}), turn_id=f"t{n}")
            await anyio.sleep(chance.uniform(0, 1.2))
            server.kill_agents()
            await client.until("s", "complete", turn_id=f"t{n}")
        history = await client.history("s")
        ends = [event["turn_id"] for event in history if event["type"] == "complete"]
        assert ends == [f"t{n}" for n in range(20)]
        assert [event["seq"] for event in history] == list(range(1, len(history) + 1))
        assert text(await client.turn("s", script({"say": "fine"}), turn_id="last")) == "fine"
