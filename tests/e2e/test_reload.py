"""SIGHUP: what a running server takes of new settings, and what it does when its terminal goes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import anyio
import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, RunningServer, environment, running_server
from tests.support.talk import talk
from tests.support.terminal import on_terminal

pytestmark = pytest.mark.anyio


async def reload(server: RunningServer, *answers: str) -> None:
    """Send SIGHUP, and wait until the log has one of ``answers`` once more."""
    log = server.home.parent / "server.log"
    answers = answers or ("SIGHUP: reloaded", "SIGHUP: nothing was reloaded")

    def count() -> int:
        return sum(log.read_text().count(answer) for answer in answers)

    before = count()
    server.process.send_signal(signal.SIGHUP)
    with anyio.fail_after(HANG_SECONDS):
        while count() == before:
            await anyio.sleep(0.02)


async def test_auth_tokens_are_read_again_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    tokens, log = tmp_path / "tokens", tmp_path / "server.log"
    tokens.write_text("alice:alice-secret\n")
    tokens.chmod(0o600)
    options = ("--driver", "echo", "--auth-tokens", f"@{tokens}")
    async with (
        running_server(tmp_path, *options) as server,
        talk(server, "alice-secret") as alice,
        talk(server, "bob-secret") as bob,
    ):

        async def statuses() -> tuple[int, int]:
            return (await alice.http.get("/sessions")).status_code, (await bob.http.get("/sessions")).status_code

        assert await statuses() == (200, 401)
        tokens.write_text("alice:alice-secret\nbob:bob-secret\n")
        assert await statuses() == (200, 401)
        await reload(server)
        assert await statuses() == (200, 200)
        assert "SIGHUP: reloaded auth_tokens, audit_log\n" in log.read_text()
        tokens.write_text("bob:bob-secret\n")
        await reload(server)
        assert await statuses() == (401, 200)
        tokens.write_text("alice\n")
        (server.home / ".env").write_text("PORTICO_MAX_TOKENS=many\n")
        await reload(server)
        assert await statuses() == (401, 200)
        text = log.read_text()
        assert "SIGHUP: --auth-tokens entry 1: " in text and "SIGHUP: .env: PORTICO_MAX_TOKENS=many: " in text
        tokens.write_text("alice:alice-secret\n")
        (server.home / ".env").write_text("PORTICO_MAX_TOKENS=5\nPORTICO_MAX_QUEUED_TURNS=5\n")
        await reload(server)
        assert await statuses() == (200, 401)
        assert "SIGHUP: max_tokens, max_queued_turns: changed, which needs a restart" in log.read_text()
        assert "alice-secret" not in log.read_text()


async def test_a_server_whose_working_folder_is_gone_goes_on(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--driver", "echo") as server:
        shutil.rmtree(server.home)
        await reload(server)
        assert "SIGHUP: nothing was reloaded" in (tmp_path / "server.log").read_text()


async def test_a_server_ends_with_the_terminal_that_it_was_started_on(tmp_path: Path) -> None:
    env = environment(tmp_path, PORTICO_DATA_DIR=str(tmp_path / "data"), PORTICO_PORT="0")
    async with on_terminal([*PORTICO, "serve", "--driver", "echo"], env, tmp_path) as terminal:
        await terminal.until("Portico is ready on")
        terminal.process.send_signal(signal.SIGHUP)
        await terminal.until("SIGHUP: reloaded auth_tokens")
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, terminal.fd)  # closes it, and leaves something to close
        os.close(nothing)
        with anyio.fail_after(HANG_SECONDS):
            await terminal.process.wait()
    assert not (tmp_path / "data" / "server.json").exists(), "it stopped in order"
