"""Forks, on a driver that does what it is told."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.errors import AgentUnavailable, PorticoError, SessionNotFound
from portico.core.events import Delta
from portico.core.principal import Principal
from portico.core.requests import NewFork, NewSession, NewTurn
from portico.core.tree_copy import copy_tree
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Gate, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS
from tests.support.repositories import git, needs_git, repositories

pytestmark = pytest.mark.anyio

ADA, BOB = Principal("ada"), Principal("bob")
HELLO = Delta(type="delta", content="hello")


class SlowToFork(ScriptedDriver):
    """Its forks wait for ``gate``; with ``error`` they then fail."""

    def __init__(self, *arguments: Any, error: Exception | None = None) -> None:
        super().__init__(*arguments)
        self.gate = Gate()
        self._error = error

    async def fork(self, *arguments: Any) -> None:
        await super().fork(*arguments)
        self.gate.reached.set()
        await self.gate.opened.wait()
        if self._error is not None:
            raise self._error


class Shared(MemoryStore):
    """It stays open for the engine that still has it."""

    async def close(self) -> None: ...


async def asked(engine: Any, *turn_ids: str) -> None:
    for turn_id in turn_ids:
        await engine.query(ADA, "s", NewTurn("hello", turn_id))
        reader = await engine.reader(ADA, "s", turn_id=turn_id)
        with anyio.fail_after(HANG_SECONDS):
            while await reader.read():
                pass


async def test_the_agent_is_told_which_turns_it_shall_know(tmp_path: Path) -> None:
    driver = ScriptedDriver([turn(HELLO), turn(HELLO), turn(HELLO)])
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await asked(engine, "one", "two")
        driver.agents[0].begin("a task has ended")
        with anyio.fail_after(HANG_SECONDS):
            while (await engine.session(ADA, "s"))["turns"] < 3 or (await engine.session(ADA, "s"))["state"] != "idle":
                await anyio.sleep(0.01)
        made = await engine.fork(ADA, "s", NewFork(turn_id="one"))
        assert driver.forks[0][2:] == (["one"], 0)
        assert (made["turns"], made["state"], made["last_seq"]) == (1, "idle", 4)
        await engine.fork(ADA, "s", NewFork(turn_id="two"))
        assert driver.forks[1][2:] == (["one", "two"], 0)
        await engine.fork(ADA, "s", NewFork())
        assert driver.forks[2][2:] == (None, 1), "all that it knows"
        assert driver.forks[0][0].agent_id == driver.specs[0].agent_id != driver.forks[0][1].agent_id


async def test_a_session_that_is_purged_while_it_is_forked_leaves_no_fork(tmp_path: Path) -> None:
    driver = SlowToFork([turn(HELLO)])
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await asked(engine, "one")

        async def fork() -> None:
            with pytest.raises(SessionNotFound):
                await engine.fork(ADA, "s", NewFork(session_id="f"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fork)
            await driver.gate.reached.wait()
            await engine.close(ADA, "s", purge=True)
            await engine.create(BOB, NewSession(session_id="s"))
            driver.gate.open()
        with pytest.raises(SessionNotFound):
            await engine.session(ADA, "f")
        assert [made["owner"] for made in (await engine.sessions(Principal("ops", admin=True)))[0]] == ["bob"]


async def test_what_a_killed_server_leaves_of_a_fork_can_be_purged(tmp_path: Path) -> None:
    driver, store = SlowToFork([turn(HELLO)]), Shared()
    async with scripted_engine(tmp_path, driver=driver, store=store) as killed:
        session = await killed.create(ADA, NewSession(session_id="s"))
        folder = Path(session["cwd"]).parent

        async def fork() -> None:
            with pytest.raises(PorticoError):
                await killed.fork(ADA, "s", NewFork(session_id="f"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fork)
            await driver.gate.reached.wait()
            try:
                assert [made["session_id"] for made in (await killed.sessions(ADA))[0]] == ["s"], "it is not whole yet"
                assert len(list(folder.iterdir())) == 2
                async with scripted_engine(tmp_path, driver=ScriptedDriver([]), store=store) as following:
                    assert (await following.session(ADA, "f"))["state"] == "closed"
                    await following.close(ADA, "f", purge=True)
                assert list(folder.iterdir()) == [Path(session["cwd"])]
            finally:
                driver.gate.open()


async def test_a_fork_that_the_driver_refuses_leaves_nothing(tmp_path: Path) -> None:
    driver = SlowToFork([turn(HELLO)], error=AgentUnavailable("no"))
    driver.gate.open()
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        session = await engine.create(ADA, NewSession(session_id="s"))
        folders = set(Path(session["cwd"]).parent.iterdir())
        with pytest.raises(PorticoError, match="no"):
            await engine.fork(ADA, "s", NewFork(session_id="f"))
        assert set(Path(session["cwd"]).parent.iterdir()) == folders
        assert (await engine.create(ADA, NewSession(session_id="f")))["session_id"] == "f"


def test_a_copy_takes_files_and_links_and_nothing_that_leads_elsewhere(tmp_path: Path) -> None:
    source, target, secret = tmp_path / "source", tmp_path / "target", tmp_path / "secret"
    (source / "in").mkdir(parents=True)
    target.mkdir()
    secret.mkdir()
    (secret / "key").write_text("a secret")
    (source / "in" / "run").write_text("#!/bin/sh\n")
    (source / "in" / "run").chmod(0o755)
    (source / "out").symlink_to(secret)
    os.mkfifo(source / "pipe")
    copy_tree(source, target)
    assert (target / "in" / "run").read_text() == "#!/bin/sh\n" and (target / "in" / "run").stat().st_mode & 0o100
    assert (target / "out").is_symlink() and not (target / "pipe").exists()


@needs_git
def test_git_in_a_copy_never_works_on_the_original(tmp_path: Path) -> None:
    made = repositories(tmp_path / "roots")
    git(made.tree, "submodule", "--quiet", "update", "--init")
    git(made.repo, "worktree", "add", "-q", str(made.repo / "inner"), "-b", "inner")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".git").symlink_to(made.shared)
    for source in (made.repo, made.tree, made.sub, tmp_path / "linked"):
        target = tmp_path / "copies" / source.name
        target.mkdir(parents=True)
        copy_tree(source, target)
    copies = tmp_path / "copies"
    assert sorted(copies.rglob(".git")) == [copies / "repo" / ".git", copies / "repo" / "sub" / ".git"]
    before = git(made.repo, "for-each-ref")
    for place in (copies / "repo", copies / "repo" / "sub"):
        git(place, "commit", "-q", "--allow-empty", "-m", "in the copy")
        assert git(place, "log", "-1", "--format=%s") == "in the copy\n"
    assert git(made.repo, "for-each-ref") == before
    assert git(made.sub, "log", "-1", "--format=%s") == "one\n"


def test_what_goes_or_changes_while_it_is_copied_does_not_end_the_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "stays").write_text("here")
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            for name in map(str, range(50)):
                (source / name).write_text("x")
                (source / name).unlink()
                (source / name).mkdir()
                (source / name).rmdir()
                (source / name).symlink_to("stays")
            for name in map(str, range(50)):
                (source / name).unlink()

    with ThreadPoolExecutor(1) as agent:
        working = agent.submit(work)
        try:
            for number in range(50):
                target = tmp_path / f"target{number}"
                target.mkdir()
                copy_tree(source, target)
                assert (target / "stays").read_text() == "here"
        finally:
            over.set()
        working.result()


async def test_the_agent_is_not_asked_for_turns_that_were_withdrawn(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(gate, HELLO)])
    async with scripted_engine(tmp_path, driver=driver, pool_size=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        await gate.reached.wait()
        await engine.query(ADA, "s", NewTurn("hello", "two"))
        await engine.withdraw(ADA, "s", "two")
        made = await engine.fork(ADA, "s", NewFork(turn_id="two"))
        assert (made["turns"], driver.forks[0][2:]) == (1, ([], 0))
        gate.open()
