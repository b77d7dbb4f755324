"""Calls beside turns: the context window, the commands and the MCP servers of a session's agent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = {"words": 400, "say": "w ", "gap_ms": 50}
MCP_SERVER = Path(__file__).parents[1] / "support" / "mcp_server.py"


async def test_the_context_window_is_seen_between_turns_and_while_one_runs(client: Talk) -> None:
    await client.open(session_id="a")
    await client.turn("a", "My name is Ada.")
    before = (await client.http.get("/sessions/a/context")).raise_for_status().json()
    assert before["model"] and 0 < before["tokens"] < before["max_tokens"], before
    assert before["percent"] == pytest.approx(100 * before["tokens"] / before["max_tokens"], abs=0.06)
    assert {part["kind"] for part in before["parts"]} >= {"used", "free"}
    await client.start("a", script(SLOW))
    await client.until("a", "delta")
    with anyio.fail_after(HANG_SECONDS):
        during = (await client.http.get("/sessions/a/context")).raise_for_status().json()
    assert during["max_tokens"] == before["max_tokens"]
    assert (await client.session("a"))["state"] == "running"
    assert (await client.http.post("/sessions/a/interrupt")).status_code == 202
    assert (await client.until("a", "complete", after=during.get("seq", 0)))["type"] == "complete"


async def test_a_session_without_a_process_gets_one_for_a_call(client: Talk) -> None:
    await client.open(session_id="a")
    found = (await client.http.get("/sessions/a/commands")).raise_for_status().json()["commands"]
    assert all(set(command) == {"name", "description", "arguments"} for command in found)
    assert "compact" in [command["name"] for command in found]
    states = [event["state"] for event in await client.history("a") if event["type"] == "session"]
    assert states == ["idle", "starting", "idle"]
    await client.turn("a", "My name is Ada.")
    states = [event["state"] for event in await client.history("a") if event["type"] == "session"]
    assert states == ["idle", "starting", "idle", "running", "idle"], "the turn took the process of the call"


async def test_the_mcp_servers_of_a_session_are_listed_without_what_may_be_secret(tmp_path: Path) -> None:
    servers = {
        "good": {"command": sys.executable, "args": [str(MCP_SERVER)], "env": {"TOKEN": "a-secret"}},
        "bad": {"command": "/nowhere/a-secret"},
    }
    async with (
        running_server(tmp_path, PORTICO_MCP_SERVERS=json.dumps(servers)) as server,
        talk(server) as client,
    ):
        await client.open(session_id="a", mcp_servers=["good", "bad"])
        with anyio.fail_after(HANG_SECONDS):
            while True:
                answer = (await client.http.get("/sessions/a/mcp")).raise_for_status()
                found = {each["name"]: each for each in answer.json()["servers"]}
                if "pending" not in [each["status"] for each in found.values()]:
                    break
                await anyio.sleep(0.1)
        assert found["bad"]["status"] == "failed", found
        assert found["good"]["status"] == "connected" and found["good"]["tools"], found
        assert "a-secret" not in answer.text


async def test_a_call_needs_an_open_session_of_the_callers_own(server: RunningServer, client: Talk) -> None:
    assert (await client.http.get("/sessions/nobody/context")).status_code == 404
    await client.open(session_id="a")
    assert (await client.http.delete("/sessions/a")).status_code == 204
    refused = await client.http.get("/sessions/a/context")
    assert (refused.status_code, refused.json()["code"]) == (409, "session_closed")


async def test_a_rewind_sets_the_files_back_to_the_start_of_a_turn(client: Talk) -> None:
    session = await client.open(session_id="a", permission_mode="acceptEdits")
    folder = Path(session["cwd"])
    (folder / "old.txt").write_text("old\n")
    await client.turn("a", writing(folder / "first.txt", "one"), turn_id="first")
    reading = {"tool": {"name": "Read", "input": {"file_path": str(folder / "old.txt")}}}
    await client.turn("a", script(reading, step(folder / "old.txt", "new\n")), turn_id="second")
    assert (folder / "old.txt").read_text() == "new\n"

    async def rewind(**body: Any) -> tuple[int, dict[str, Any]]:
        answer = await client.http.post("/sessions/a/rewind", json=body)
        return answer.status_code, answer.json()

    status, would = await rewind(turn_id="second", dry_run=True)
    assert (status, would["files"], would["dry_run"]) == (200, [str(folder / "old.txt")], True)
    assert (would["insertions"], would["deletions"]) == (1, 1)
    assert (folder / "old.txt").read_text() == "new\n"
    assert (await rewind(turn_id="nobody"))[1]["code"] == "turn_not_found"
    status, done = await rewind(turn_id="second")
    assert (status, done["dry_run"]) == (200, False), done
    assert (folder / "old.txt").read_text() == "old\n" and (folder / "first.txt").exists()
    notice = await client.until("a", "notice", name="files_rewound")
    assert notice["detail"] == {"turn_id": "second", "files": [str(folder / "old.txt")]}


async def test_a_rewind_works_after_a_restart_of_the_agent_and_not_while_a_turn_runs(
    client: Talk, server: RunningServer
) -> None:
    session = await client.open(session_id="a", permission_mode="acceptEdits")
    made = Path(session["cwd"], "made.txt")
    await client.turn("a", writing(made, "one"), turn_id="first")
    server.kill_agents()
    await client.until("a", "notice", name="agent_exited")
    await client.start("a", script(SLOW), turn_id="second")
    await client.until("a", "delta", turn_id="second")
    busy = await client.http.post("/sessions/a/rewind", json={"turn_id": "first"})
    assert (busy.status_code, busy.json()["code"]) == (409, "busy")
    assert (await client.http.post("/sessions/a/interrupt")).status_code == 202
    await client.until("a", "complete", turn_id="second")
    assert (await client.http.post("/sessions/a/rewind", json={"turn_id": "first"})).status_code == 200
    assert not made.exists()
    await client.turn("a", "/clear", commands=True, turn_id="third")
    gone = await client.http.post("/sessions/a/rewind", json={"turn_id": "first"})
    assert (gone.status_code, gone.json()["code"]) == (409, "no_checkpoint")


async def test_the_models_of_a_driver_are_listed_without_a_session(server: RunningServer, client: Talk) -> None:
    answer = (await client.http.get("/models")).raise_for_status().json()
    assert answer["driver"] == "claude-code"
    assert {"sonnet", "opus"} <= {each["model"] for each in answer["models"]}
    assert all(each["stands_for"] and each["name"] for each in answer["models"])
    assert (await client.http.get("/models?driver=nobody")).json()["code"] == "unknown_driver"
    with anyio.fail_after(HANG_SECONDS):
        while server.count_agents():
            await anyio.sleep(0.05)


def step(path: Path, content: str) -> dict[str, Any]:
    return {"tool": {"name": "Write", "input": {"file_path": str(path), "content": content}}}


def writing(path: Path, content: str) -> str:
    return script(step(path, content))
