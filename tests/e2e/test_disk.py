"""A disk that is full: words instead of a hang, and never an event that a client saw and the store lacks."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.talk import Event, Talk, script, talk, text

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]


def fill_disk(server: RunningServer) -> None:
    """Nothing that the server writes goes into a file from now on: to it, that is a full disk."""
    psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))


def free_disk(server: RunningServer) -> None:
    psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


async def unready(server: RunningServer, client: Talk) -> None:
    with anyio.fail_after(HANG_SECONDS):
        while (await client.http.get(f"{server.url}/readyz")).status_code != 503:
            await anyio.sleep(0.05)


@pytest.mark.long
async def test_what_a_full_disk_does_not_take_nobody_sees(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_POOL_SIZE="0") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")
        before = (await client.session("s"))["last_seq"]
        seen: list[Event] = []
        await client.start("s", script({"words": 20_000, "say": "word "}), turn_id="t")
        with anyio.move_on_after(HANG_SECONDS) as following_for:
            async with client.follow("s", after=before) as following:
                async for event in following:
                    seen.append(event)
                    if len(seen) == 100:
                        fill_disk(server)
                        following_for.deadline = anyio.current_time() + 3
        assert len(seen) >= 100 and "complete" not in {event["type"] for event in seen}
        refused = await client.http.post("/sessions/s/turns", json={"query": "more"})
        assert refused.status_code == 503 and refused.json()["code"] in ("store_full", "store_failed")
        await unready(server, client)
        server.process.send_signal(signal.SIGKILL)
        await server.process.wait()
    (tmp_path / "again").mkdir()
    async with (
        running_server(tmp_path / "again", PORTICO_DATA_DIR=str(server.data_dir)) as server,
        talk(server) as client,
    ):
        page = await client.http.get(f"/sessions/s/events?live=false&limit=5000&after={before}")
        history = page.json()["events"]
        assert history[: len(seen)] == seen[: len(history)] and len(history) >= min(len(seen), 5000)


@pytest.mark.long
async def test_once_there_is_space_again_the_turn_ends_and_the_session_goes_on(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_POOL_SIZE="0") as server, talk(server) as client:
        await client.open(session_id="s")
        await client.turn("s", "hello")
        await client.start("s", script({"words": 20_000, "say": "word "}), turn_id="t")
        await client.until("s", "delta", turn_id="t")
        fill_disk(server)
        await unready(server, client)
        free_disk(server)
        complete = await client.until("s", "complete", turn_id="t")
        assert complete["stop_reason"] == "error"
        assert text(await client.turn("s", script({"say": "fine"}))) == "fine"
        assert (await client.http.get(f"{server.url}/readyz")).status_code == 200
