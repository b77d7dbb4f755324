"""A data folder that an older version has left, killed in the middle of its work, opens in this one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from portico.plugins.sqlite_store.schema import MIGRATIONS
from portico.server.data_format import FORMAT
from tests.fixtures.data_folder import NUMBERS, Expected, expected, restore
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, RunningServer, environment, running_server
from tests.support.talk import Event, Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio]

BOTH = {"PORTICO_DRIVER": "claude-code,echo"}
CUT = {"idle", "waiting", "running"}
"""Sessions that had a process when the server was killed."""


class Opened:
    def __init__(self, server: RunningServer, client: Talk, expected: Expected) -> None:
        self.server = server
        self.client = client
        self.expected = expected

    async def added(self, session_id: str) -> list[Event]:
        """The events that this version has added to a history. It must begin as it was left."""
        history = await self.client.history(session_id)
        before = self.expected.sessions[session_id]["events"]
        if history[0]["type"] == "gap":
            assert history.pop(0)["min_seq"] == before[0]["seq"]
        assert history[: len(before)] == before
        assert [event["seq"] for event in history] == list(range(before[0]["seq"], before[0]["seq"] + len(history)))
        return history[len(before) :]


def kinds(events: list[Event]) -> list[tuple[str, Any]]:
    marks = {
        "session": "reason",
        "error": "code",
        "complete": "stop_reason",
        "permission_resolved": "reason",
        "message": "role",
    }
    return [(event["type"], event[marks[event["type"]]]) for event in events]


STOPPED = [("error", "server_restarted"), ("complete", "error")]
TELLING = "lock", "audit.jsonl", "workspace-folders.json"
"""Files that tell who was there last, and where."""
HIBERNATED = [("session", "server_restarted")]


EACH = [pytest.param(number, marks=pytest.mark.long) for number in NUMBERS[:-1]] + NUMBERS[-1:]
"""Each format; the older ones at length only, but for the first test."""


def test_there_is_a_folder_of_every_format() -> None:
    """A new one is made with `python -m tests.fixtures.make_data_folder NUMBER`."""
    assert list(range(1, FORMAT + 1)) == NUMBERS
    assert [expected(number).format for number in NUMBERS] == NUMBERS
    assert {expected(number).database for number in NUMBERS} == set(MIGRATIONS)


@pytest.mark.parametrize("number", NUMBERS)
async def test_all_that_was_in_it_is_there(tmp_path: Path, number: int) -> None:
    found = restore(number, tmp_path / "data")
    async with running_server(tmp_path, **BOTH) as server, talk(server) as client:
        assert server.token == found.token
        opened = Opened(server, client, found)
        listed = (await client.http.get("/sessions?limit=100")).raise_for_status().json()["sessions"]
        assert {session["session_id"] for session in listed} == set(found.sessions)
        for session in listed:
            record = found.sessions[session["session_id"]]["record"]
            cut = session["session_id"] in CUT
            assert session["state"] == ("hibernated" if cut else record["state"])
            assert session["cwd"] == record["cwd"].replace(found.path, str(tmp_path / "data"))
            assert session["model"] == record["options"]["model"]
            assert session["permission_mode"] == record["options"]["permission_mode"]
            for name in ("title", "metadata", "driver", "owner", "created_at", "turns"):
                assert session[name] == record[name], name
            assert session["budget_usd"] == record.get("budget_usd")
            if number < 3 or not cut:  # before, what a turn had used that was cut off was not known
                assert (session["usage"], session["cost_usd"]) == (record["usage"], record["cost_usd"])
            elif session["session_id"] in found.used:
                used = found.used[session["session_id"]]
                assert session["usage"]["output_tokens"] == used + record["usage"].get("output_tokens", 0)
                assert session["cost_usd"] > record["cost_usd"]
        assert kinds(await opened.added("idle")) == HIBERNATED
        assert kinds(await opened.added("running")) == [("message", "assistant"), *STOPPED, *STOPPED, *HIBERNATED]
        withdrawn = [("permission_resolved", "agent_exited")]
        assert kinds(await opened.added("waiting")) == [*withdrawn, *STOPPED, *HIBERNATED]
        for name in found.sessions.keys() - CUT:
            assert await opened.added(name) == []
        again = await client.http.post("/stream/running", json={"query": "never begun", "turn_id": "queued"})
        assert "server_restarted" in again.text  # it is not run now
        url = f"{server.api}/sessions/idle/events?live=false&ticket={found.ticket}"
        async with httpx.AsyncClient(timeout=HANG_SECONDS, trust_env=False) as http:
            assert (await http.get(url)).status_code == 200
            assert (await http.get(url.replace("/idle/", "/waiting/"))).status_code != 200
        assert await opened.added("gap") == []
        assert text(await client.turn("gap", "still an echo")) == "still an echo"
        assert (await client.http.post("/sessions/closed/turns", json={"query": "hello"})).status_code == 409


@pytest.mark.real_cli
@pytest.mark.parametrize("number", EACH)
async def test_its_conversations_go_on(tmp_path: Path, number: int) -> None:
    restore(number, tmp_path / "data")
    async with running_server(tmp_path, **BOTH) as server, talk(server) as client:
        for session_id, name in (("dormant", "Ada"), ("hibernated", "Bob"), ("running", "Eve")):
            await client.turn(session_id, "What is my name?")
            assert f"My name is {name}." in str(server.model.requests[-1].body), session_id
        workspace = Path((await client.session("dormant"))["cwd"])
        assert (workspace / "kept.txt").read_text() == "kept\n"
        write = {"name": "Write", "input": {"file_path": str(workspace / "new.txt"), "content": "new\n"}}
        await client.turn("dormant", script({"tool": write}, {"say": "done"}))
        assert (workspace / "new.txt").read_text() == "new\n"  # nobody was asked: its mode was kept


@pytest.mark.real_cli
@pytest.mark.parametrize("number", EACH)
async def test_what_was_spent_counts(tmp_path: Path, number: int) -> None:
    found = restore(number, tmp_path / "data")
    budget = {"PORTICO_BUDGET_USD_PER_DAY": str(found.spent["admin"])}
    async with running_server(tmp_path, **BOTH, **budget) as server, talk(server) as client:
        assert only(await client.turn("dormant", "more"), "error")["code"] == "budget_exceeded"
        assert not server.model.requests


def digests(folder: Path, *without: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in without
    }


async def refused(tmp_path: Path) -> str:
    """The one line with which `portico serve` refuses the data folder."""
    env = environment(tmp_path, PORTICO_DATA_DIR=str(tmp_path / "data"), PORTICO_PORT="0", PORTICO_LOG_LEVEL="error")
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process([*PORTICO, "serve", "--driver", "echo"], env=env, cwd=tmp_path, check=False)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.decode().splitlines()
    assert str(tmp_path / "data") in line
    return line


async def test_a_folder_of_a_newer_format_is_left_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    restore(NUMBERS[-1], data)
    (data / "format").write_text(f"{FORMAT + 1}\n")
    (data / "spending.json").write_text("in a form of the future")
    before = digests(data)
    assert "portico.db-wal" in before
    line = await refused(tmp_path)
    assert f"newer version (format {FORMAT + 1}; this one knows {FORMAT}); install that version again" in line
    assert digests(data) == before


MIGRATE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("ALTER TABLE sessions ADD COLUMN colour TEXT")
connection.execute(f"PRAGMA user_version = {sys.argv[2]}")
os._exit(0)  # killed: the log stays
"""


@pytest.mark.parametrize("log", [True, False], ids=["with a log", "closed well"])
async def test_a_database_of_a_newer_format_is_left_as_it_is(tmp_path: Path, log: bool) -> None:
    data, newer = tmp_path / "data", max(MIGRATIONS) + 1
    restore(NUMBERS[-1], data)
    path = data / "portico.db"
    subprocess.run([sys.executable, "-c", MIGRATE, str(path), str(newer)], check=True)  # noqa: ASYNC221
    if not log:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (data / "format").write_text(f"{FORMAT}\n")
    before = digests(data, *TELLING)
    assert ("portico.db-wal" in before) == log
    line = await refused(tmp_path)
    assert f"newer version (format {newer}; this one knows {newer - 1}); install that version again" in line
    assert digests(data, *TELLING) == before
    assert os.listdir(data / "agents")


@pytest.mark.parametrize("content", ["", "two", "-1", "0", "1.5"])
async def test_a_format_that_is_no_number_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "format").write_text(content)
    assert "holds no format number" in await refused(tmp_path)
    assert digests(tmp_path / "data", "lock") == {"format": sha256(content.encode()).hexdigest()}


async def test_a_new_folder_has_the_number_of_this_format(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--driver", "echo") as server:
        assert (server.data_dir / "format").read_text() == f"{FORMAT}\n"
        assert (server.data_dir / "format").stat().st_mode & 0o777 == 0o600
