"""The stop of a server, and everything that it leaves."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import anyio
import pytest

from tests.support.limits import HANG_SECONDS, NEVER_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

SLOW = {"words": 1000, "say": "w ", "gap_ms": 50}
ENDLESS = {"words": 30_000, "say": "w ", "gap_ms": 50}  # longer than `HANG_SECONDS`


async def draining(client: Talk, server: RunningServer) -> None:
    with anyio.fail_after(HANG_SECONDS):
        while (await client.http.get(f"{server.url}/readyz")).status_code != 503:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_an_idle_server_stops_at_once_with_endless_streams_open(tmp_path: Path, name: str) -> None:
    async with (
        running_server(tmp_path, "--driver", "echo", "--drain-timeout", str(NEVER_SECONDS)) as server,
        talk(server) as client,
    ):
        await client.open(session_id="s")
        await client.turn("s", "hello")
        async with client.follow("s") as following:
            async for event in following:
                if event["type"] == "complete":
                    server.process.send_signal(getattr(signal, name))
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0


async def test_while_it_drains_new_work_is_refused_and_reads_are_served(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", script({"words": 3, "say": "w ", "stall": 1}), turn_id="t")
        delta = await client.until("s", "delta")
        server.process.send_signal(signal.SIGTERM)
        await draining(client, server)
        for answer in (
            await client.http.post("/sessions", json={}),
            await client.http.post("/sessions/s/turns", json={"query": "more"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "draining")
            assert int(answer.headers["Retry-After"]) > 0
        assert (await client.session("s"))["state"] == "running"
        server.model.release()
        complete = await client.until("s", "complete", after=delta["seq"])
        assert complete["stop_reason"] == "end_turn"
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0


async def test_a_turn_longer_than_the_drain_is_interrupted(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--drain-timeout", "0.5") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", script(SLOW), turn_id="t")
        await client.start("s", "later", turn_id="u")
        seen: list[Event] = []
        async with client.follow("s") as following:
            async for event in following:
                if event["type"] == "delta" and all(each["type"] != "delta" for each in seen):  # one signal, not two
                    server.process.send_signal(signal.SIGTERM)
                seen.append(event)
        ends = {event["turn_id"]: event["stop_reason"] for event in seen if event["type"] == "complete"}
        assert ends == {"t": "interrupted", "u": "error"}
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--drain-timeout", str(NEVER_SECONDS)) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", script(ENDLESS))
        await client.until("s", "delta")
        server.process.send_signal(signal.SIGTERM)
        await draining(client, server)
        server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0


async def test_a_second_server_on_the_same_data_folder_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--driver", "echo") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.start("s", '{"deltas": 40, "gap": 0.05}', turn_id="t")
        await client.until("s", "delta")
        (tmp_path / "second").mkdir()
        refused = pytest.RaisesExc(AssertionError, match=f"in use by another server .process {server.process.pid}")
        with pytest.RaisesGroup(refused, flatten_subgroups=True):
            async with running_server(tmp_path / "second", PORTICO_DATA_DIR=str(server.data_dir)):
                pass
        assert (await client.until("s", "complete"))["stop_reason"] == "end_turn"


async def test_a_server_whose_data_folder_is_gone_says_that_it_is_not_ready(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_POOL_SIZE="0") as server, talk(server) as client:
        assert (await client.http.get(f"{server.url}/readyz")).status_code == 200
        server.data_dir.rename(tmp_path / "elsewhere")
        answer = await client.http.get(f"{server.url}/readyz")
        assert answer.status_code == 503 and "data folder" in answer.text


async def test_any_number_of_signals_ends_in_good_order(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")
        while server.process.returncode is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.process.pid, number)  # send_signal() would take its exit status away
            await anyio.sleep(0.005)
        assert server.process.returncode == 0
