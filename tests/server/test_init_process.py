"""The process in front of a server that would be process 1, or is a subreaper."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.first import SUBREAPER
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, environment, server_of
from tests.support.supervised import news, starter
from tests.support.terminal import CTRL_C, on_terminal

pytestmark = pytest.mark.anyio


async def test_no_secret_is_in_the_process_in_front(tmp_path: Path) -> None:
    options = ("--driver", "echo", "--auth-tokens=me:secret-token")
    async with server_of(SUBREAPER, (), tmp_path, *options, ANTHROPIC_API_KEY="secret-key") as server:
        place = Path("/proc", str(server.process.pid))
        assert (place / "environ").read_bytes() == b""
        assert b"secret-" not in (place / "cmdline").read_bytes()
        assert len(list((place / "fd").iterdir())) == 3


async def test_its_end_is_the_servers_end(tmp_path: Path) -> None:
    async with server_of(SUBREAPER, (), tmp_path, "--driver", "echo") as server:
        (child,) = psutil.Process(server.process.pid).children()
        child.kill()
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 128 + signal.SIGKILL
    (tmp_path / "again").mkdir()
    async with server_of(SUBREAPER, (), tmp_path / "again", "--driver", "echo") as server:
        (child,) = psutil.Process(server.process.pid).children()
        server.process.kill()
        child.wait(HANG_SECONDS)
        await server.process.wait()


def test_a_start_that_fails_fails(tmp_path: Path) -> None:
    command = [*SUBREAPER, *PORTICO, "serve", "--port", "many"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 2 and "--port=many" in done.stderr


async def test_what_the_manager_gives_the_process_reaches_the_server(tmp_path: Path) -> None:
    with news(tmp_path / "notify") as told:
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        prefix = [*starter(), *SUBREAPER]
        async with server_of(prefix, (), tmp_path, "--driver", "echo", **variables):
            await told.until(WATCHDOG="1")
            await told.until(READY="1")


async def test_ctrl_c_on_its_terminal_comes_to_the_server_once(tmp_path: Path) -> None:
    env = environment(tmp_path, PORTICO_DATA_DIR=str(tmp_path / "data"), PORTICO_PORT="0")
    command = [*SUBREAPER, *PORTICO, "serve", "--driver", "echo"]
    async with on_terminal(command, env, tmp_path) as terminal:
        await terminal.until("Portico is ready on")
        await terminal.type(CTRL_C)
        shown = await terminal.until("stopped")
        assert "SIGINT: draining" in shown and "stopping at once" not in shown
        assert await terminal.exit_status() == 0
