from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.cli.client.top import Ages, in_words
from tests.support.dark import dark_server
from tests.support.enrolled import identity, write
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, RunningServer, running_server
from tests.support.talk import Talk, talk
from tests.support.terminal import CTRL_C, on_terminal
from tests.support.ziti import network as standin

pytestmark = pytest.mark.anyio


def test_ages_go_by_what_was_seen() -> None:
    ages = Ages()
    session: dict[str, Any] = {"session_id": "s", "last_seq": 5, "last_active_at": "1970-01-01T00:01:00Z"}
    assert ages.age(session, 100.0) == 40
    assert ages.age(session, 101.0) == 41
    session["last_seq"] = 6
    assert ages.age(session, 102.0) == 0
    assert ages.age(session, 105.5) == 3.5
    session["last_active_at"] = "1970-01-01T00:01:45Z"
    assert ages.age(session, 104.0) == 2
    assert [in_words(age) for age in (0.4, 59.9, 200, 7500, 400_000)] == ["0s", "59s", "3m 20s", "2h 05m", "4d"]


async def once(server: RunningServer, *options: str) -> tuple[int, str, str]:
    command = [*PORTICO, "top", *options]
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(command, env=server.client_env, cwd=server.home, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_without_a_terminal_it_is_shown_once_and_on_one_until_ctrl_c(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_DRIVER="echo", PORTICO_DRAIN_TIMEOUT="0.5") as server:
        async with talk(server) as client:
            await client.open(session_id="idle-one", title="A\x1b]0;title")
            await client.open(session_id="busy-one")
            await client.open(session_id="closed-one")
            await client.http.delete("/sessions/closed-one")
            await client.start("busy-one", json.dumps({"deltas": 10_000, "gap": 0.05}))
            await client.until("busy-one", "delta")
            status, shown, errors = await once(server)
            assert (status, errors) == (0, "") and "\x1b" not in shown and "closed-one" not in shown
            summary, head, busy, idle = shown.splitlines()
            assert summary.startswith(f"portico at {server.url}: 2 open · 1 running · 1 idle · 1 of 10 processes")
            assert head.split()[:4] == ["SESSION", "STATE", "OWNER", "LAST"]
            assert busy.split()[:3] == ["busy-one", "running", "admin"]
            assert idle.split()[:2] == ["idle-one", "idle"] and idle.endswith("]0;title")
            async with on_terminal([*PORTICO, "top"], server.client_env, server.home) as terminal:
                await terminal.until("busy-one  running")
                await client.open(session_id="new-one")
                await terminal.until("new-one")
                await client.http.post("/sessions/busy-one/interrupt")
                await terminal.until("busy-one  idle")
                await terminal.type(CTRL_C)
                assert await terminal.exit_status(5) == 130
                assert "Traceback" not in terminal.text
        async with on_terminal([*PORTICO, "top"], server.client_env, server.home) as terminal:
            await terminal.until("new-one")
            await server.stop()
            await terminal.until("trying again")
            await terminal.type(CTRL_C)
            assert await terminal.exit_status(5) == 130
        status, shown, errors = await once(server, "--server", server.url)
        assert (status, shown) == (1, "") and errors.startswith("portico: ")


@pytest.mark.parametrize("shape", [pytest.param("0.6", marks=pytest.mark.long), "1.x"])
async def test_of_a_dark_server(tmp_path: Path, shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with standin(tmp_path, shape) as net, dark_server(tmp_path, net) as server:
        async with net.http("portico", base_url="http://localhost/claude") as http:
            await Talk(http).open(session_id="hidden")
        net.allow("alice", dial=["portico"])
        file = write(net.identity_file("alice"), identity(standin="alice"))
        options = ["--ziti-identity", str(file), "--ziti-service", "portico"]
        env = server.client_env | {"PYTHONPATH": f"{tmp_path / 'site'}:{net.environment()['PYTHONPATH']}"}
        with anyio.fail_after(HANG_SECONDS):
            done = await anyio.run_process([*PORTICO, "top", *options], env=env, cwd=server.home, check=False)
        assert done.returncode == 0, done.stderr
        summary, _, row = done.stdout.decode().splitlines()
        assert summary.startswith("portico at the Ziti service portico: 1 open · 1 idle · ")
        assert row.split()[:3] == ["hidden", "idle", "alice"]
