"""Turns that an agent has scheduled begin at their times, whatever has become of its process and of the server."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import RunningServer, running_server
from tests.support.talk import Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SOON = {"delaySeconds": 60, "reason": "to look again", "prompt": script({"say": "awake"}), "noop": False}
"""A wakeup: no CLI takes less than a minute."""
JOB = {"cron": "7 3 1 1 *", "prompt": script({"say": "a new year"})}


async def schedule(client: Talk, session_id: str, tool: str, asked: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Have the agent of a session schedule this. Returns the schedule, as the session lists it."""
    await client.open(session_id=session_id, **options)
    turn = await client.turn(session_id, script({"tool": {"name": tool, "input": asked}}, {"say": "set"}))
    event = only(turn, "schedule")
    (listed,) = (await client.session(session_id))["schedules"]
    assert listed["schedule_id"] == event["schedule_id"] and listed["prompt"] == event["prompt"] == asked["prompt"]
    assert event["state"] == "set" and event["next_at"] == listed["next_at"]
    assert datetime.fromisoformat(listed["next_at"]) > datetime.now(UTC)
    schedule: dict[str, Any] = listed
    return schedule


def make_due(server: RunningServer) -> None:
    """Set the times of all schedules of a server that has stopped to now."""
    now = datetime.now(UTC)
    with closing(sqlite3.connect(server.data_dir / "portico.db")) as database, database:
        database.execute(
            "UPDATE sessions SET record = json_set(record, '$.schedules[0].next_at', ?)", [now.isoformat()]
        )


@asynccontextmanager
async def later(folder: Path, server: RunningServer) -> AsyncIterator[Talk]:
    """Another server on the same data, when what was scheduled is due."""
    if server.process.returncode is None:
        await server.stop()
    make_due(server)
    (folder / "again").mkdir()
    data = {"PORTICO_DATA_DIR": str(server.data_dir)}
    async with running_server(folder / "again", **data) as again, talk(again) as client:
        yield client


async def fired(client: Talk, session_id: str, says: str) -> None:
    """Wait for the turn, which must be the only one of nobody's."""
    own = await client.until(session_id, "query", principal=None)
    assert (await client.until(session_id, "complete", after=own["seq"]))["stop_reason"] == "end_turn"
    events = [event for event in await client.history(session_id) if event.get("turn_id") == own["turn_id"]]
    assert text(events) == says
    assert [e["state"] for e in await client.history(session_id) if e["type"] == "schedule"] == ["set", "fired"]


@pytest.mark.parametrize("killed", [False, True])
async def test_a_wakeup_opens_its_session_after_a_restart(killed: bool, tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        listed = await schedule(client, "a", "ScheduleWakeup", SOON)
        assert (listed["kind"], listed["reason"], listed["recurring"]) == ("wakeup", "to look again", False)
        if killed:
            server.process.kill()
            await server.process.wait()
    async with later(tmp_path, server) as client:
        await fired(client, "a", "awake")
        assert (await client.session("a"))["schedules"] == []


async def test_a_job_opens_a_dormant_session_and_is_due_again(tmp_path: Path) -> None:
    async with running_server(tmp_path, SESSION_TIMEOUT="0.5") as server, talk(server) as client:
        listed = await schedule(client, "a", "CronCreate", JOB)
        assert (listed["kind"], listed["cron"], listed["recurring"]) == ("cron", JOB["cron"], True)
        await client.until("a", "session", state="dormant")
    async with later(tmp_path, server) as client:
        await fired(client, "a", "a new year")
        (again,) = (await client.session("a"))["schedules"]
        assert datetime.fromisoformat(again["next_at"]) > datetime.now(UTC) and again["cron"] == JOB["cron"]


async def test_what_is_removed_begins_no_turn(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        listed = await schedule(client, "a", "ScheduleWakeup", SOON)
        path = f"/sessions/a/schedules/{listed['schedule_id']}"
        assert (await client.http.delete(path)).status_code == 204
        assert (await client.until("a", "schedule", state="removed"))["schedule_id"] == listed["schedule_id"]
        again = await client.http.delete(path)
        assert (again.status_code, again.json()["code"]) == (404, "schedule_not_found")
        assert (await client.session("a"))["schedules"] == []
    async with later(tmp_path, server) as client:
        await client.turn("a", "hello")
        assert [e["principal"] for e in await client.history("a") if e["type"] == "query"].count(None) == 0


async def test_a_closed_session_has_nothing_scheduled(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        await schedule(client, "s", "CronCreate", JOB)
        await client.http.delete("/sessions/s")
        assert (await client.session("s"))["schedules"] == []
        assert [e["state"] for e in await client.history("s") if e["type"] == "schedule"] == ["set", "removed"]


async def test_what_the_agent_takes_back_is_gone(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        listed = await schedule(client, "a", "CronCreate", JOB)
        tool = {"name": "CronDelete", "input": {"id": listed["schedule_id"]}}
        assert only(await client.turn("a", script({"tool": tool})), "schedule")["state"] == "removed"
        assert (await client.session("a"))["schedules"] == []


@pytest.mark.long
@pytest.mark.parametrize("removed", [False, True])
async def test_a_running_agent_begins_the_turn_by_itself_and_once(removed: bool, tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        listed = await schedule(client, "a", "ScheduleWakeup", SOON)
        if not removed:
            await fired(client, "a", "awake")
            return
        await client.http.delete(f"/sessions/a/schedules/{listed['schedule_id']}")
        own = await client.until("a", "query", principal=None)
        assert (await client.until("a", "complete", after=own["seq"]))["stop_reason"] == "interrupted"


@pytest.mark.long
@pytest.mark.parametrize("tool", ["ScheduleWakeup", "CronCreate"])
async def test_what_is_due_while_the_session_has_no_process_fires_once(tool: str, tmp_path: Path) -> None:
    at = datetime.now() + timedelta(seconds=70)
    job = {"cron": f"{at.minute} {at.hour} {at.day} {at.month} *", "recurring": False, "prompt": SOON["prompt"]}
    async with running_server(tmp_path, SESSION_TIMEOUT="1") as server, talk(server) as client:
        await schedule(client, "a", tool, SOON if tool == "ScheduleWakeup" else job)
        await client.until("a", "session", state="dormant")
        await fired(client, "a", "awake")
