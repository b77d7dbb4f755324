"""Work in the background: clients see it, and it is spared for as long as that can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, only, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

ONE_PROCESS = {"PORTICO_MAX_PROCESSES": "1"}
LONG = "sleep 600"
AFTER_FILE = "until test -e go; do sleep 0.05; done; echo done > done.txt"
"""A command that ends once there is the file ``go``."""


async def work(client: Talk, session_id: str, command: str) -> dict[str, Any]:
    """Have the agent of a new session begin this in the background. Returns the session."""
    await client.open(session_id=session_id, allowed_tools=["Bash"])
    tool = {"name": "Bash", "input": {"command": command, "description": "A build", "run_in_background": True}}
    turn = await client.turn(session_id, script({"tool": tool}, {"say": "it runs"}, {"say": "it is over"}))
    started = only(turn, "task")
    assert (started["state"], started["kind"], started["description"]) == ("started", "shell", "A build")
    session = await client.session(session_id)
    assert session["state"] == "idle"
    assert [task["task_id"] for task in session["tasks"]] == [started["task_id"]]
    return session


async def let_end(session: dict[str, Any]) -> None:
    await anyio.Path(session["cwd"], "go").touch()


def done(session: dict[str, Any]) -> bool:
    return Path(session["cwd"], "done.txt").exists()


async def ended(client: Talk, session_id: str) -> Event:
    return await client.until(session_id, "task", state="ended")


async def lost(client: Talk, session_id: str, reason: str) -> None:
    """Wait until clients are told that the task has died, and why."""
    assert (await ended(client, session_id))["outcome"] == "lost"
    notice = await client.until(session_id, "notice", name="background_tasks_lost")
    assert notice["detail"]["reason"] == reason
    assert [task["description"] for task in notice["detail"]["tasks"]] == ["A build"]
    assert (await client.session(session_id))["tasks"] == []


async def test_a_task_outlives_its_turn_and_its_end_is_told(tmp_path: Path) -> None:
    limits = {"SESSION_TIMEOUT": "1", **ONE_PROCESS}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        session = await work(client, "a", AFTER_FILE)
        await client.open(session_id="b")
        await client.start("b", "hello")  # it wants the process, and waits
        assert (await client.until("b", "session", state="starting"))["reason"] == "no_process"
        await anyio.sleep(2)  # longer than the session may be idle
        assert (await client.session("a"))["state"] == "idle"
        await let_end(session)
        end = await ended(client, "a")
        assert (end["outcome"], "turn_id" in end) == ("completed", False)
        assert "completed" in end["summary"]
        own = await client.until("a", "query", principal=None)
        assert "A build" in own["content"]
        assert (await client.until("a", "complete", after=own["seq"]))["stop_reason"] == "end_turn"
        await client.until("b", "complete")
        assert done(session) and (await client.session("a"))["tasks"] == []
        assert "notice" not in [event["type"] for event in await client.history("a")]


@pytest.mark.long
async def test_who_has_waited_long_gets_the_process_and_clients_are_told(tmp_path: Path) -> None:
    async with (
        running_server(tmp_path, PORTICO_PROCESS_WAIT="6", **ONE_PROCESS) as server,
        talk(server) as client,
    ):
        await work(client, "a", LONG)
        await client.open(session_id="b")
        assert (await client.turn("b", "hello"))[-1]["stop_reason"] == "end_turn"
        await lost(client, "a", "process_needed")
        await client.until("a", "session", state="hibernated")


@pytest.mark.long
async def test_another_session_at_rest_gives_its_process_first(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_MAX_PROCESSES="2") as server, talk(server) as client:
        await work(client, "a", LONG)
        for name in "bc":
            await client.open(session_id=name)
            await client.turn(name, "hello")
        assert (await client.session("b"))["state"] == "hibernated"
        assert len((await client.session("a"))["tasks"]) == 1
        assert (await client.http.delete("/sessions/a")).status_code == 204
        await lost(client, "a", "closed")


async def test_background_timeout_ends_the_wait(tmp_path: Path) -> None:
    limits = {"SESSION_TIMEOUT": "0.5", "PORTICO_BACKGROUND_TIMEOUT": "2"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await work(client, "a", LONG)
        await lost(client, "a", "idle")
        await client.until("a", "session", state="dormant")


@pytest.mark.long
async def test_an_agent_that_exits_takes_its_tasks_along(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        await work(client, "a", LONG)
        server.kill_agents()
        await lost(client, "a", "agent_exited")


@pytest.mark.long
async def test_the_drain_waits_for_tasks_and_for_what_the_agent_says_of_them(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        session = await work(client, "a", AFTER_FILE)
        async with stopping(server):
            await client.until("a", "task")  # reads go on
            await let_end(session)
            await client.until("a", "query", principal=None)
        assert done(session)
    async with restarted(tmp_path, server) as client:
        kinds = [event["type"] for event in await client.history("a")]
        assert kinds.count("complete") == 2 and "error" not in kinds and "notice" not in kinds


@pytest.mark.long
@pytest.mark.parametrize("orderly", [True, False])
async def test_a_server_that_stops_says_what_has_died(orderly: bool, tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_DRAIN_TIMEOUT="0.5") as server, talk(server) as client:
        await work(client, "a", LONG)
        if orderly:
            async with client.follow("a") as following, stopping(server):
                seen = [event async for event in following]
            assert only(seen, "notice")["detail"]["reason"] == "server_stopped"
        else:
            server.process.kill()
            await server.process.wait()
    reason = "server_stopped" if orderly else "server_restarted"
    async with restarted(tmp_path, server) as client:
        await lost(client, "a", reason)


@asynccontextmanager
async def restarted(folder: Path, server: RunningServer) -> AsyncIterator[Talk]:
    """Another server on the same data."""
    (folder / "again").mkdir()
    data = {"PORTICO_DATA_DIR": str(server.data_dir)}
    async with running_server(folder / "again", **data) as again, talk(again) as client:
        yield client


@asynccontextmanager
async def stopping(server: RunningServer) -> AsyncIterator[None]:
    """SIGTERM at the start of the block; at its end the server must be gone, with its agents."""
    server.process.terminate()
    yield
    with anyio.fail_after(HANG_SECONDS):
        assert await server.process.wait() == 0


@pytest.mark.long
async def test_a_task_is_stopped_between_turns_and_while_one_runs(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        for session_id, busy in (("a", False), ("b", True)):
            (task,) = (await work(client, session_id, LONG))["tasks"]
            if busy:
                await client.start(session_id, script({"say": "w", "stall": 1}))
                await client.until(session_id, "delta")
            stop = f"/sessions/{session_id}/tasks/{{}}/stop"
            assert (await client.http.post(stop.format("other"))).json()["code"] == "task_not_found"
            assert (await client.http.post(stop.format(task["task_id"]))).status_code == 202
            assert (await ended(client, session_id))["outcome"] == "stopped"
            again = await client.http.post(stop.format(task["task_id"]))
            assert (again.status_code, again.json()["code"]) == (404, "task_not_found")
        server.model.release()
