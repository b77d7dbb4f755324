"""Exact resume, whatever is cut: every event of a real turn, the server's process, the moment of the crash."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import anyio
import httpx
import pytest

from tests.support.server import RunningServer, running_server
from tests.support.sse import events
from tests.support.talk import Event, Talk, only, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SQLITE = {"PORTICO_STORE": "sqlite"}


async def rest_of_turn(client: Talk, after: int) -> list[Event]:
    answer_headers = {"Last-Event-ID": str(after)}
    async with client.http.stream("GET", "/stream/s?query=never", headers=answer_headers) as answer:
        if answer.status_code == 204:
            return []
        return [event async for event in events(answer)]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_cut_at_every_event_of_a_turn_exactly_the_rest_comes(tmp_path: Path, store: str) -> None:
    async with running_server(tmp_path, PORTICO_STORE=store) as server, talk(server) as client:
        session = await client.open(session_id="s", permission_mode="acceptEdits")
        target = Path(session["cwd"]) / "file.txt"
        tool = {"name": "Write", "input": {"file_path": str(target), "content": "x"}}
        turn = await client.turn("s", script({"think": "hm hm", "say": "one two", "tool": tool}, {"say": "three four"}))
        history = await client.history("s")
        assert len(turn) > 10
        for cut in range(len(history)):
            page = await client.http.get(f"/sessions/s/events?live=false&after={cut}")
            assert page.json()["events"] == history[cut:]
        for n, event in enumerate(turn):
            assert await rest_of_turn(client, event["seq"]) == turn[n + 1 :]
        assert (await client.session("s"))["turns"] == 1


async def test_cut_in_mid_turn_again_and_again_nothing_is_missing_or_doubled(client: Talk) -> None:
    chance = random.Random(7)
    await client.open(session_id="s")
    await client.start("s", script({"words": 300, "say": "w ", "gap_ms": 5}))
    seen: list[Event] = []
    while not seen or seen[-1]["type"] != "complete":
        enough = len(seen) + chance.randrange(1, 40)
        async with client.follow("s", after=len(seen)) as following:
            async for event in following:
                seen.append(event)
                if len(seen) >= enough or event["type"] == "complete":
                    break
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen == (await client.history("s"))[: len(seen)]
    assert text(seen).count("w") == 300


async def kill(server: RunningServer) -> None:
    server.process.send_signal(signal.SIGKILL)
    await server.process.wait()


async def test_a_server_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running_server(tmp_path, **SQLITE) as server, talk(server) as client:
        await client.open(session_id="s", title="kept", metadata={"a": [1, 2]})
        await client.turn("s", "My name is Ada.")
        await client.start("s", script({"words": 1000, "say": "w ", "gap_ms": 10}), turn_id="cut")
        await client.start("s", "waiting", turn_id="queued")
        await client.until("s", "delta", turn_id="cut")
        before = await client.session("s")
        seen = await client.history("s")
        await kill(server)
    (tmp_path / "again").mkdir()
    again = running_server(tmp_path / "again", PORTICO_DATA_DIR=str(server.data_dir), **SQLITE)
    async with again as server, talk(server) as client:
        history = await client.history("s")
        assert history[: len(seen)] == seen
        assert [event["seq"] for event in history] == list(range(1, len(history) + 1))
        for turn_id in ("cut", "queued"):
            mine = [event for event in history if event.get("turn_id") == turn_id]
            assert only(mine, "error")["code"] == "server_restarted"
            assert (mine[-1]["type"], mine[-1]["stop_reason"]) == ("complete", "error")
        after = await client.session("s")
        assert after["state"] == "hibernated"
        for name in ("title", "metadata", "cwd", "owner", "created_at", "turns", "model", "permission_mode"):
            assert after[name] == before[name]
        repeated = await client.http.post("/stream/s", json={"query": "waiting", "turn_id": "queued"})
        assert "server_restarted" in repeated.text  # it is not run a second time
        assert text(await client.turn("s", script({"say": "back"}))) == "back"
        assert "My name is Ada." in str(server.model.requests[-1].body)


async def test_a_server_that_was_stopped_well_loses_nothing(tmp_path: Path) -> None:
    async with running_server(tmp_path, **SQLITE) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "My name is Ada.")
        seen = await client.history("s")
    (tmp_path / "again").mkdir()
    again = running_server(tmp_path / "again", PORTICO_DATA_DIR=str(server.data_dir), **SQLITE)
    async with again as server, talk(server) as client:
        assert (await client.history("s"))[: len(seen)] == seen
        await client.turn("s", "Who am I?")
        assert "My name is Ada." in str(server.model.requests[-1].body)


class Watcher:
    """A client that keeps all it has seen of a session, over any number of servers."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.seen: list[Event] = []

    async def watch(self, client: Talk) -> None:
        try:
            async with client.follow(self.session_id, after=len(self.seen)) as following:
                async for event in following:
                    assert event["seq"] == len(self.seen) + 1
                    self.seen.append(event)
        except httpx.TransportError:
            pass  # the server was killed


async def keep_asking(client: Talk, session_id: str, chance: random.Random) -> None:
    try:
        while True:
            words = chance.randrange(1, 200)
            await client.turn(session_id, script({"words": words, "say": "w ", "gap_ms": chance.choice([0, 0, 2])}))
    except httpx.HTTPError:
        pass


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(5))
async def test_killed_at_random_instants_no_client_has_seen_what_the_store_lacks(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    watchers = [Watcher(name) for name in "abc"]
    data_dir = tmp_path / "data"
    for life in range(10):
        folder = tmp_path / str(life)
        folder.mkdir()
        lives = running_server(folder, PORTICO_DATA_DIR=str(data_dir), PORTICO_POOL_SIZE="0", **SQLITE)
        async with lives as server, talk(server) as client:
            if life == 0:
                for watcher in watchers:
                    await client.open(session_id=watcher.session_id)
            async with anyio.create_task_group() as tasks:
                for watcher in watchers:
                    tasks.start_soon(watcher.watch, client)
                    tasks.start_soon(keep_asking, client, watcher.session_id, chance)
                await anyio.sleep(chance.uniform(0.3, 4))
                await kill(server)
    folder = tmp_path / "last"
    folder.mkdir()
    async with running_server(folder, PORTICO_DATA_DIR=str(data_dir), **SQLITE) as server, talk(server) as client:
        for watcher in watchers:
            history: list[Event] = []
            more = True
            while more:
                url = f"/sessions/{watcher.session_id}/events?live=false&limit=5000&after={len(history)}"
                page = (await client.http.get(url)).json()
                history += page["events"]
                more = page["has_more"]
            assert [event["seq"] for event in history] == list(range(1, len(history) + 1))
            assert history[: len(watcher.seen)] == watcher.seen
            accepted = [event["turn_id"] for event in history if event["type"] == "query"]
            completed = [event["turn_id"] for event in history if event["type"] == "complete"]
            assert sorted(accepted) == sorted(completed)
