"""`portico sessions` as it is typed, and what its lines look like."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from portico.cli.client.listing import listing
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, RunningServer, running_server
from tests.support.talk import talk
from tests.support.terminal import on_terminal


def session(session_id: str, title: str | None = None) -> dict[str, object]:
    when = "2026-01-02T03:04:05.678Z"
    return {"session_id": session_id, "state": "idle", "turns": 3, "last_active_at": when, "title": title}


def test_ids_are_whole_and_titles_are_cut() -> None:
    found = [session("x" * 64, "T" * 100), session("short", "語" * 100), session("none")]
    head, long, wide, none = listing(found, 120)
    assert head.split() == ["SESSION", "STATE", "TURNS", "LAST", "ACTIVE", "TITLE"]
    assert long == f"{'x' * 64}  idle   3      2026-01-02 03:04:05  {'T' * (119 - 64 - 36)}…"
    assert wide.endswith("語…") and len(wide) < len(long)
    assert none == f"none{' ' * 60}  idle   3      2026-01-02 03:04:05"
    assert all("T" * 100 in line for line in listing(found)[1:2])


async def portico(server: RunningServer, *arguments: str) -> CompletedProcess[bytes]:
    with anyio.fail_after(HANG_SECONDS):
        command = [*PORTICO, *arguments]
        return await anyio.run_process(command, env=server.client_env, cwd=server.home, check=False)


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_lists_closes_and_exports(server: RunningServer) -> None:
    one, two = f"one-{uuid.uuid4().hex}", f"two-{'x' * 60}"
    async with talk(server) as client:
        await client.open(session_id=one, title="A\x1b]0;title")
        await client.open(session_id=two, title="long " * 40)
        await client.turn(one, "hello")
        history = await client.history(one)
    shown = (await portico(server, "sessions")).stdout.decode().splitlines()
    assert [line.split()[:3] for line in shown[1:3]] == [[two, "idle", "0"], [one, "idle", "1"]]
    assert all(line == line.rstrip() and "\x1b" not in line for line in shown)
    assert shown[1].endswith("long " * 39 + "long")
    exported = await portico(server, "sessions", "export", one)
    assert [json.loads(line) for line in exported.stdout.splitlines()] == history
    done = await portico(server, "sessions", "close", one, "--server", server.url)
    assert (done.returncode, done.stdout.decode()) == (0, f"session {one} is closed\n")
    open_ones = await portico(server, "sessions", "--json")
    all_of_them = await portico(server, "sessions", "--all", "--json")
    ids = [[json.loads(line)["session_id"] for line in done.stdout.splitlines()] for done in (open_ones, all_of_them)]
    assert two in ids[0] and one not in ids[0] and one in ids[1]
    assert (await portico(server, "sessions", "--server", server.url, "close", two, "--purge")).returncode == 0
    async with talk(server) as client:
        assert (await client.http.get(f"/sessions/{two}")).status_code == 404
    gone = await portico(server, "sessions", "export", two)
    assert gone.returncode == 1 and gone.stderr.startswith(b"portico: ")


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_a_long_history_is_exported_page_by_page(server: RunningServer) -> None:
    async with talk(server) as client:
        session_id = (await client.open())["session_id"]
        await client.turn(session_id, '{"deltas": 2500}')
        last = (await client.session(session_id))["last_seq"]
    exported = await portico(server, "sessions", "export", session_id)
    assert [json.loads(line)["seq"] for line in exported.stdout.splitlines()] == list(range(1, last + 1))


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_on_a_terminal_it_says_what_is_left_out(server: RunningServer) -> None:
    async with talk(server) as client:
        session_id = (await client.open(title="T" * 256))["session_id"]
        await client.http.delete(f"/sessions/{(await client.open())['session_id']}")
    async with on_terminal([*PORTICO, "sessions"], server.client_env, server.home) as terminal:
        assert await terminal.exit_status() == 0
    line = next(line for line in terminal.text.splitlines() if line.startswith(session_id))
    assert len(line) == 200 and line.endswith("T…")
    assert "closed: --all lists them" in terminal.text


@pytest.mark.long
@pytest.mark.anyio
@pytest.mark.real_cli
async def test_too_many_sessions_says_how_to_close_one(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--driver", "echo", "--max-sessions", "1") as server, talk(server) as client:
        await client.open(session_id="only")
        for command in (["ask", "hello"], ["chat"]):
            done = await portico(server, *command)
            assert done.returncode == 1
            assert b"sessions` lists them" in done.stderr and b"sessions close ID` closes one" in done.stderr
        assert (await portico(server, "sessions", "close", "only")).returncode == 0
        assert (await portico(server, "ask", "hello")).returncode == 0
