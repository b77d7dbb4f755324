"""Requests that schemathesis makes up from the OpenAPI document, to a server as users start it, with all its checks on.

What it can't know stands in hooks.py. Afterwards the server must be as it was: idle, with nothing left open.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import anyio
import psutil
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, running_server
from tests.support.sight import count_descriptors

pytestmark = pytest.mark.anyio

TOKENS = "alice:secret-of-alice,bob:secret-of-bob,root:secret-of-root:admin"
COMMON = {"PORTICO_AUTH_TOKENS": TOKENS, "PORTICO_MAX_SESSIONS": "100000", "PORTICO_PERMISSION_TIMEOUT": "1"}
ECHO = {**COMMON, "PORTICO_DRIVER": "echo"}

CONFIGURATION = """
hooks = "{hooks}"
max-stream-events = 5
request-timeout = 10
[auth.wfc]
path = "{callers}"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "422", "426", "429"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "415", "422", "426", "429"]
[reports.json]
path = "{report}"
"""
# Two callers: what is one's the other must not see.
CALLERS = """
auth:
  - name: alice
    fixedHeaders: [{name: Authorization, value: Bearer secret-of-alice}]
  - name: bob
    fixedHeaders: [{name: Authorization, value: Bearer secret-of-bob}]
"""


@dataclass(frozen=True, slots=True)
class Left:
    """Return the resources of an idle server: descriptors, processes below it, and memory in MiB."""

    descriptors: int
    children: int
    memory: float

    @classmethod
    def of(cls, server: RunningServer) -> Left:
        process = psutil.Process(server.process.pid)
        return cls(count_descriptors(process), len(process.children(recursive=True)), process.memory_info().rss / 2**20)


async def requests(server: RunningServer, folder: Path, *options: str, seconds: int) -> dict[str, Any]:
    """Let schemathesis loose; its report, where it has found nothing."""
    folder.mkdir(exist_ok=True)
    configuration, callers, report = folder / "st.toml", folder / "callers.yaml", folder / "report.json"
    callers.write_text(CALLERS)
    hooks = Path(__file__).with_name("hooks.py")
    configuration.write_text(CONFIGURATION.format(hooks=hooks, callers=callers, report=report))
    argv = [str(Path(sys.executable).with_name("st")), "--config-file", str(configuration), "run"]
    argv += [f"{server.url}/openapi.json", "--continue-on-failure", "--no-color", *options]
    with anyio.fail_after(seconds):
        done = await anyio.run_process(argv, cwd=folder, check=False, stderr=STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    found: dict[str, Any] = json.loads(report.read_text())
    return found


async def is_idle(server: RunningServer, callers: tuple[str, ...] = ("alice", "bob")) -> None:
    """Every turn ends, and every session can be closed."""
    for caller in callers:
        async with server.http() as client:
            client.headers["authorization"] = f"Bearer secret-of-{caller}"
            while sessions := (await client.get("/sessions?limit=500")).json()["sessions"]:
                for session in sessions:
                    closed = await client.delete(f"/sessions/{session['session_id']}?purge=true")
                    assert closed.status_code == 204, closed.text
            assert (await client.get(f"{server.url}/readyz")).status_code == 200


async def settled(server: RunningServer, before: Left, *, memory: float) -> None:
    """Wait until there is no more than before. ``memory``: MiB that may have come to it."""
    with anyio.move_on_after(20):
        while Left.of(server).descriptors > before.descriptors or Left.of(server).children > before.children:
            await anyio.sleep(0.1)
    after = Left.of(server)
    assert (after.descriptors, after.children) <= (before.descriptors, before.children)
    assert after.memory < before.memory + memory


def faults(server: RunningServer) -> list[str]:
    log = (server.home.parent / "server.log").read_text().splitlines()
    return [line for line in log if " ERROR " in line or "Traceback" in line]


async def warmed_up(server: RunningServer) -> Left:
    """Return the resources of a server that has seen each kind of request once."""
    async with server.http() as client:
        client.headers["authorization"] = "Bearer secret-of-alice"
        await client.post("/sessions", json={"session_id": "first"})
        await client.post("/stream/first", json={"query": "hello"})
        await client.get(f"{server.url}/docs")
    await is_idle(server)
    return Left.of(server)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_few_hundred_requests_made_up_from_the_document_find_nothing(tmp_path: Path) -> None:
    async with running_server(tmp_path, **ECHO) as server:
        before = await warmed_up(server)
        options = ("--phases", "fuzzing,stateful", "--max-examples", "12", "--seed=8")
        report = await requests(server, tmp_path / "st", *options, seconds=200)
        assert report["test_cases"]["generated"] > 200
        await is_idle(server)
        await settled(server, before, memory=60)
        assert faults(server) == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_five_thousand_requests_made_up_from_the_document_find_nothing(tmp_path: Path) -> None:
    async with running_server(tmp_path, **ECHO) as server:
        before = await warmed_up(server)
        count = 0
        for seed in range(1, 20):
            # Each time other ones; the database of the time before would only do the same again.
            report = await requests(
                server, tmp_path / f"st{seed}", "--max-examples", "60", f"--seed={seed}", seconds=500
            )
            count += report["test_cases"]["generated"]
            if count >= 5000:
                break
        assert count >= 5000
        await is_idle(server)
        await settled(server, before, memory=100)
        assert faults(server) == []


@pytest.mark.long
@pytest.mark.real_cli
@pytest.mark.timeout(300)
async def test_made_up_requests_to_real_agents_leave_no_process(tmp_path: Path) -> None:
    settings = {**COMMON, "PORTICO_MAX_PROCESSES": "3", "PORTICO_POOL_SIZE": "1", "PORTICO_PROCESS_WAIT": "5"}
    async with running_server(tmp_path, **settings) as server:
        await requests(server, tmp_path / "st", "--phases", "stateful", "--max-examples", "10", "--seed=1", seconds=200)
        await is_idle(server)
        with anyio.fail_after(HANG_SECONDS):
            while server.count_agents() > 1:  # the one that is ready for the next session
                await anyio.sleep(0.1)
        assert faults(server) == []
