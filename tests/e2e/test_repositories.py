"""Sessions in worktrees and submodules, in the sandbox; and in folders that go while a session has them."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.repositories import Repositories, git, needs_git, repositories
from tests.support.sandbox import working_sandbox
from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk

pytestmark = pytest.mark.anyio

ANYTHING = "bypassPermissions"
"""The permission mode of agents that only the sandbox stops."""
ME = "-c user.name=a -c user.email=a@b.example"
COMMIT = f"git {ME} commit -q --allow-empty -m by-an-agent && git log --oneline | wc -l"


async def tool(client: Talk, session_id: str, command: str) -> str:
    """Return the output of a Bash tool."""
    turn = await client.turn(
        session_id, script({"tool": {"name": "Bash", "input": {"command": command}}}, {"say": "x"})
    )
    return str(only(turn, "tool_result")["content"])


async def start_anew(server: RunningServer, client: Talk, session_id: str) -> None:
    """Kill the agent, so that the next turn gets a new sandbox."""
    server.kill_agents()
    with anyio.fail_after(HANG_SECONDS):
        while (await client.history(session_id))[-1].get("name") != "agent_exited":
            await anyio.sleep(0.05)


@asynccontextmanager
async def in_the_sandbox(folder: Path, roots: str) -> AsyncIterator[tuple[RunningServer, Talk]]:
    await working_sandbox()
    variables = {"PORTICO_SANDBOX": "required", "PORTICO_WORKSPACE_ROOTS": roots, "PORTICO_PERMISSION_MODES": ANYTHING}
    async with running_server(folder, **variables) as server, talk(server) as client:
        yield server, client


@pytest.fixture
def made(tmp_path: Path) -> Repositories:
    (tmp_path / "roots").mkdir(mode=0o700)
    return repositories(tmp_path / "roots")


@needs_git
@pytest.mark.real_cli
async def test_an_agent_commits_in_a_worktree_and_in_a_submodule(tmp_path: Path, made: Repositories) -> None:
    async with in_the_sandbox(tmp_path, str(tmp_path / "roots")) as (_, client):
        await client.open(session_id="tree", permission_mode=ANYTHING, cwd=str(made.tree), add_dirs=[str(made.sub)])
        assert (await tool(client, "tree", COMMIT)).strip() == "3"
        assert (await tool(client, "tree", f"cd {made.sub} && {COMMIT}")).strip() == "2"
        assert "Read-only" in await tool(client, "tree", f"echo evil > {made.shared}/hooks/pre-commit")
        # Git replaces the file that it changes, and the mount with it; the next turn has a new sandbox.
        git(made.repo, "config", "of.a.test", "x")
        assert "busy" in await tool(client, "tree", f"mv {made.shared}/HEAD {made.shared}/config")
    assert git(made.repo, "log", "-1", "--format=%s", "tree") == "by-an-agent\n"
    assert git(made.repo, "config", "of.a.test") == "x\n"


@needs_git
@pytest.mark.real_cli
async def test_a_pointer_that_an_agent_writes_opens_nothing(tmp_path: Path, made: Repositories) -> None:
    """Neither in its own session nor in a later one of the same folder, and neither inside of the roots nor outside."""
    work, outside = tmp_path / "roots" / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir(mode=0o700)
    git(outside, "init", "-q", "-b", "main")
    git(outside, "commit", "-qm", "x", "--allow-empty")
    git(outside, "worktree", "add", "-q", str(tmp_path / "roots" / "of-outside"), "-b", "x")
    stale = made.shared / "worktrees" / "other"  # which names a folder that another session works in by now
    shutil.rmtree(made.other)
    made.other.mkdir()
    roots = str(tmp_path / "roots")
    async with in_the_sandbox(tmp_path, roots) as (server, client):
        await client.open(session_id="work", permission_mode=ANYTHING, cwd=str(work))
        for target in (made.shared / "worktrees" / "tree", outside / ".git"):
            await tool(client, "work", f"echo 'gitdir: {target}' > .git")
            await start_anew(server, client, "work")
            assert "No such file" in await tool(client, "work", f"ls {target}")
        again = (await client.open(cwd=str(work), permission_mode=ANYTHING))["session_id"]
        assert "No such file" in await tool(client, again, f"ls {target}")
        await client.open(session_id="late", permission_mode=ANYTHING, cwd=str(made.other))
        await tool(client, "late", f"echo 'gitdir: {stale}' > .git")
        await start_anew(server, client, "late")
        assert "No such file" in await tool(client, "late", f"ls {made.shared}")
        await client.open(session_id="outside", permission_mode=ANYTHING, cwd=str(tmp_path / "roots" / "of-outside"))
        assert "No such file" in await tool(client, "outside", f"ls {outside}")
    log = (tmp_path / "server.log").read_text()
    assert f"the git folder {outside / '.git'} of {tmp_path / 'roots' / 'of-outside'} is not shown" in log


GONE = ["at rest", "hibernated", "in add_dirs", "at rest, its own"]


@pytest.mark.real_cli
@pytest.mark.parametrize("how", GONE)
async def test_a_folder_that_is_gone_is_told_with_a_code(tmp_path: Path, how: str) -> None:
    roots = tmp_path / "roots"
    work, more = roots / "work", roots / "more"
    for each in (work, more):
        each.mkdir(parents=True)
    variables = {"PORTICO_WORKSPACE_ROOTS": str(roots), "PORTICO_SANDBOX": "none"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        named = {} if "own" in how else {"cwd": str(work), "add_dirs": [str(more)]}
        session = await client.open(session_id="s", **named)
        await client.turn("s", "hello")
        if how == "hibernated":
            server.kill_agents()
        gone = Path(session["cwd"]) if "add_dirs" not in how else more
        shutil.rmtree(gone)
        error = only(await client.turn("s", "again"), "error")
        assert error["code"] == "workspace_moved" and "Path(" not in error["error"]
        assert ("more" in error["error"]) is (gone == more)
        if "own" not in how:
            gone.mkdir()
            assert only(await client.turn("s", "and again"), "complete")["stop_reason"] == "end_turn"
        events = await client.history("s")
    assert not [event for event in events if "Path(" in str(event)]


@pytest.mark.real_cli
async def test_an_agent_whose_folder_was_replaced_works_in_the_new_one(tmp_path: Path) -> None:
    work = tmp_path / "roots" / "work"
    work.mkdir(parents=True)
    variables = {"PORTICO_WORKSPACE_ROOTS": str(tmp_path / "roots"), "PORTICO_ALLOWED_TOOLS": "Bash"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s", cwd=str(work))
        assert "old" in await tool(client, "s", "echo old > file; cat file")
        work.rename(work.with_name("aside"))
        work.mkdir()
        assert "new" in await tool(client, "s", "echo new > file; cat file")
    assert (work / "file").read_text() == "new\n"
    assert os.listdir(work.with_name("aside")) == ["file"]


@pytest.mark.real_cli
async def test_a_rewind_changes_nothing_in_a_folder_that_was_moved_away(tmp_path: Path) -> None:
    work, aside = tmp_path / "roots" / "work", tmp_path / "roots" / "aside"
    work.mkdir(parents=True)
    variables = {"PORTICO_WORKSPACE_ROOTS": str(tmp_path / "roots"), "PORTICO_ALLOWED_TOOLS": "Write"}
    async with running_server(tmp_path, **variables) as server, talk(server) as client:
        await client.open(session_id="s", cwd=str(work))
        write = {"tool": {"name": "Write", "input": {"file_path": str(work / "file"), "content": "x"}}}
        await client.turn("s", script(write, {"say": "x"}), turn_id="write")
        work.rename(aside)
        answer = await client.http.post("/sessions/s/rewind", json={"turn_id": "write"})
        assert (answer.status_code, answer.json()["code"]) == (503, "workspace_moved")
        assert (aside / "file").exists()
        aside.rename(work)
        answer = await client.http.post("/sessions/s/rewind", json={"turn_id": "write"})
        assert answer.status_code == 200 and not (work / "file").exists()
