"""The driver in a server, as clients see it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest
from httpx_sse import aconnect_sse
from sdk_driving import Event, gone_soon, real_cli, script, text, tool

from portico.testing import serve_model

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

TOKEN = "root-secret-root"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client:
    """A client of one session."""

    def __init__(self, http: httpx.AsyncClient, session: str) -> None:
        self.http = http
        self._session = session

    async def session(self) -> dict[str, Any]:
        session: dict[str, Any] = (await self.http.get(self._session)).raise_for_status().json()
        return session

    async def follow(self) -> AsyncIterator[Event]:
        async with aconnect_sse(self.http, "GET", f"{self._session}/events?after=0") as source:
            async for event in source.aiter_sse():
                if event.data:  # one event only sets the time to reconnect
                    yield json.loads(event.data)

    async def until(self, turn_id: str, wanted: str) -> list[Event]:
        """Return the events of a turn, up to the first one of this type."""
        events = []
        with anyio.fail_after(120):
            async for event in self.follow():
                if event.get("turn_id") == turn_id:
                    events.append(event)
                    if event["type"] == wanted:
                        return events
        raise AssertionError(f"the stream ended without {wanted}")

    async def start(self, turn_id: str, query: str) -> None:
        answer = await self.http.post(f"{self._session}/turns", json={"query": query, "turn_id": turn_id})
        assert answer.status_code == 202, answer.text

    async def turn(self, turn_id: str, query: str) -> list[Event]:
        await self.start(turn_id, query)
        return await self.until(turn_id, "complete")


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncIterator[Client]:
    """Yield a client of a server with this driver and a session `s`, which must leave no process behind."""
    cli = real_cli()
    data, home = folder / "data", folder / "home"
    home.mkdir()
    async with serve_model() as model:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "PORTICO_PORT": "0",
            "PORTICO_POOL_SIZE": "0",
            "PORTICO_DATA_DIR": str(data),
            "PORTICO_DRIVER": "claude-agent-sdk",
            "PORTICO_CLAUDE_CLI_PATH": str(cli),
            "PORTICO_AUTH_TOKENS": f"root:{TOKEN}:admin",
            "ANTHROPIC_API_KEY": "not-a-key",
            "ANTHROPIC_BASE_URL": model.url,
            **{f"PORTICO_{name}": value for name, value in settings.items()},
        }
        portico = [sys.executable, "-m", "portico"]
        listed = await anyio.run_process([*portico, "plugins", "--json"], env=env, cwd=home)
        if b'"module": "portico_claude_agent_sdk"' not in listed.stdout:  # it is not installed
            env["PORTICO_PLUGINS"] = "portico_claude_agent_sdk"
        log = folder / "log"
        with log.open("wb") as output:
            process = await anyio.open_process(
                [*portico, "serve"], env=env, cwd=home, stdin=None, stdout=output, stderr=output
            )
        async with process:
            try:
                url = await _address(data / "server.json", process, log)
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with httpx.AsyncClient(
                    base_url=f"{url}/claude", headers=headers, timeout=120, trust_env=False
                ) as http:
                    made = await http.post("/sessions", json={"session_id": "s"})
                    assert made.status_code == 201, made.text
                    yield Client(http, "/sessions/s")
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGTERM)
                with anyio.fail_after(120):
                    assert await process.wait() == 0
                assert gone_soon(children), children
            finally:
                if process.returncode is None:
                    process.kill()


async def _address(path: Path, process: anyio.abc.Process, log: Path) -> str:
    with anyio.move_on_after(120):
        while process.returncode is None:
            if path.exists():
                return str(json.loads(path.read_text())["url"])
            await anyio.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


async def test_a_server_with_this_driver_does_turns_and_says_what_it_does_not(tmp_path: Path) -> None:
    async with serving(tmp_path, PERMISSION_MODES="default,acceptEdits") as client:
        assert (await client.session())["driver"] == "claude-agent-sdk"
        events = await client.turn("a", script({"say": "one two three"}))
        assert text(events) == "one two three"
        (complete,) = [event for event in events if event["type"] == "complete"]
        assert complete["stop_reason"] == "end_turn"

        await client.start("t", script({"stall": 1, "say": "one two"}))
        await client.until("t", "delta")
        steering = {"query": "faster", "if_busy": "steer"}
        refused = await client.http.post("/sessions/s/turns", json=steering)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_supported")
        assert (await client.http.post("/sessions/s/interrupt")).status_code == 202
        assert (await client.until("t", "complete"))[-1]["stop_reason"] == "interrupted"

        changed = await client.http.patch("/sessions/s", json={"permission_mode": "acceptEdits"})
        assert changed.status_code == 200
        await client.turn("b", script({"tool": tool("Write", file_path="a.txt", content="a")}))
        assert (Path((await client.session())["cwd"]) / "a.txt").exists()
