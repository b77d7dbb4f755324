"""What a running server shows of itself to others on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from portico.hardening import blank_environment
from tests.support.server import ROOT, running_server
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
        assert b"secret-" not in b"".join(word.encode() for word in psutil.Process(server.process.pid).cmdline())


def test_nobody_else_may_look_into_a_process_that_is_closed() -> None:
    script = (
        "import ctypes; from portico.hardening import close_to_others; prctl = ctypes.CDLL(None).prctl;"
        "before = prctl(3, 0, 0, 0, 0); close_to_others(); print(before, prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "1 0\n"


def test_a_name_that_is_not_there_changes_nothing() -> None:
    before = Path("/proc/self/environ").read_bytes()
    blank_environment(["NO_SUCH_VARIABLE", "PAT", ""])
    assert Path("/proc/self/environ").read_bytes() == before
