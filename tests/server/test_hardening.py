"""The traces of a running server that others on the machine can see."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import pytest

from portico.server.hardening import blank_arguments, blank_environment
from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, ROOT, environment, running_server
from tests.support.sight import SEES_SERVERS

pytestmark = pytest.mark.anyio


async def test_no_secret_is_in_the_environment_that_others_see(tmp_path: Path) -> None:
    secrets = {"ANTHROPIC_API_KEY": "secret-1", "PORTICO_AUTH_TOKENS": "me:secret-2", "PORTICO_AGENT_ENV": "X=secret-3"}
    async with running_server(tmp_path, "--driver", "echo", **secrets) as server:
        process = Path("/proc", str(server.process.pid))
        if not SEES_SERVERS:  # it is not dumpable, see proc(5)
            with pytest.raises(PermissionError):
                (process / "environ").read_bytes()
            return
        shown = (process / "environ").read_bytes()
        assert b"PORTICO_PORT=0\0" in shown and b"ANTHROPIC_API_KEY=\0" in shown
        assert b"secret-" not in shown
        assert b"secret-" not in (process / "cmdline").read_bytes()


async def test_no_secret_is_on_the_command_line_that_everybody_sees(tmp_path: Path) -> None:
    servers = json.dumps({"x": {"type": "http", "url": "http://localhost", "headers": {"X": "secret-mcp"}}})
    options = ("--anthropic-api-key", "secret-key", "--auth-tokens=me:secret-token-1", "--mcp-servers", servers)
    async with running_server(tmp_path, "--driver", "echo", *options, "--agent-env=X=secret-env") as server:
        words = Path("/proc", str(server.process.pid), "cmdline").read_bytes().split(b"\0")
        assert b"secret-" not in b"".join(words)
        assert {b"--driver", b"echo", b"--anthropic-api-key", b"--auth-tokens=" + b"*" * len("me:secret-token-1")} <= {
            *words
        }
        answer = httpx.get(
            f"{server.api}/sessions", headers={"Authorization": "Bearer secret-token-1"}, timeout=HANG_SECONDS
        )
        assert answer.status_code == 200


WITH_A_SECRET = """
from portico import hookimpl
from pydantic import BaseModel, SecretStr

class Settings(BaseModel):
    url: str = ""
    key: SecretStr | None = None
    other: SecretStr | None = None

@hookimpl
def portico_settings():
    return {"hook": Settings}
"""


async def test_nor_is_a_secret_of_a_plugin_there_or_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(WITH_A_SECRET)
    options = ("--plugins", "hook", "--hook-key", "secret-option", "--hook-url", "http://localhost")
    variables = {"PORTICO_HOOK_OTHER": "secret-variable", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    async with running_server(tmp_path, "--driver", "echo", *options, **variables) as server:
        process = Path("/proc", str(server.process.pid))
        shown = (process / "cmdline").read_bytes()
        assert b"secret-" not in shown and b"--hook-key" in shown and b"http://localhost" in shown
        if SEES_SERVERS:
            shown = (process / "environ").read_bytes()
            assert b"PORTICO_HOOK_OTHER=\0" in shown and b"secret-" not in shown


async def test_nor_is_the_token_of_a_client(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it is never answered, so it is still there
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = [*PORTICO, "ask", "--server", where, "--token", "secret-token", "hello"]
        async with await anyio.open_process(client, env=environment(tmp_path), cwd=tmp_path) as process:
            shown = Path("/proc", str(process.pid), "cmdline")
            with anyio.fail_after(HANG_SECONDS):
                while not {where.encode(), b"*" * len("secret-token")} <= {*shown.read_bytes().split(b"\0")}:
                    await anyio.sleep(0.02)
            process.kill()


def test_nobody_else_may_look_into_a_process_that_is_closed() -> None:
    script = (
        "import ctypes; from portico.server.hardening import close_to_others; prctl = ctypes.CDLL(None).prctl;"
        "before = prctl(3, 0, 0, 0, 0); close_to_others(); print(before, prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "1 0\n"


def test_a_name_that_is_not_there_changes_nothing() -> None:
    before = Path("/proc/self/environ").read_bytes()
    blank_environment(["NO_SUCH_VARIABLE", "PAT", ""])
    assert Path("/proc/self/environ").read_bytes() == before
    before = Path("/proc/self/cmdline").read_bytes()
    blank_arguments(["--no-such-option", "--"])
    assert Path("/proc/self/cmdline").read_bytes() == before
