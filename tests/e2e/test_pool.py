"""Agents started ahead for sessions to come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path_factory.mktemp("shared"), PORTICO_POOL_SIZE="1") as server:
        yield server


async def agents(server: RunningServer, count: int) -> None:
    """Wait until there are so many agents."""
    with anyio.fail_after(HANG_SECONDS):
        while server.count_agents() != count:
            await anyio.sleep(0.05)


async def states(client: Talk, session_id: str) -> list[str]:
    return [event["state"] for event in await client.history(session_id) if event["type"] == "session"]


async def test_a_new_session_takes_one_that_is_ready_and_another_takes_its_place(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_POOL_SIZE="2") as server, talk(server) as client:
        await agents(server, 2)
        session = await client.open(
            session_id="a", model="claude-opus-5-5", append_system_prompt="Speak like a pirate."
        )
        turn = await client.turn("a", script({"say": "quick"}))
        assert text(turn) == "quick"
        assert await states(client, "a") == ["idle", "running", "idle"]  # it was never `starting`
        body = server.model.requests[-1].body
        assert body is not None and body["model"] == "claude-opus-5-5" and "like a pirate" in str(body["system"])
        assert Path(session["cwd"]).is_dir()
        await agents(server, 3)


async def test_it_is_a_session_like_any_other_afterwards(server: RunningServer, client: Talk) -> None:
    await agents(server, 1)
    session = await client.open(session_id="a", permission_mode="acceptEdits")
    target = Path(session["cwd"]) / "file.txt"
    tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
    await client.turn("a", script({"tool": tool}, {"say": "My name is Ada."}))
    assert target.read_text() == "x"
    server.kill_agents()
    await client.until("a", "notice", name="agent_exited")
    await client.turn("a", "Who am I?")
    assert "My name is Ada." in str(server.model.requests[-1].body)


async def test_a_session_with_what_is_fixed_at_the_start_gets_an_agent_of_its_own(
    server: RunningServer, client: Talk
) -> None:
    await agents(server, 1)
    await client.open(session_id="a", disallowed_tools=["Bash"])
    await client.turn("a", "hello")
    assert "starting" in await states(client, "a")
    body = server.model.requests[-1].body
    assert body is not None and "Bash" not in [tool["name"] for tool in body["tools"]]


@pytest.mark.long
async def test_there_are_never_more_processes_than_allowed(tmp_path: Path) -> None:
    limits = {"PORTICO_POOL_SIZE": "5", "PORTICO_MAX_PROCESSES": "2"}
    async with running_server(tmp_path, **limits) as server, talk(server) as client:
        await agents(server, 2)
        for name in "abcd":
            await client.open(session_id=name)
            assert (await client.turn(name, "hello"))[-1]["stop_reason"] == "end_turn"
            assert server.count_agents() <= 2


async def test_one_that_dies_is_replaced(server: RunningServer, client: Talk) -> None:
    await agents(server, 1)
    (first,) = server.agents()
    server.kill_agents()
    with anyio.fail_after(HANG_SECONDS):
        while [agent.pid for agent in server.agents()] in ([], [first.pid]):
            await anyio.sleep(0.05)
    await client.open(session_id="a")
    assert text(await client.turn("a", script({"say": "fine"}))) == "fine"


async def test_what_nobody_has_claimed_leaves_nothing(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_POOL_SIZE="2") as server:
        await agents(server, 2)
        await server.stop()
        for name in ("agents", "workspaces"):
            assert not list((server.data_dir / name).iterdir())
