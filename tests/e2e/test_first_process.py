"""A server as process 1 of a container, or as a subreaper: the orphans of tools come to it, and must be reaped."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support.first import CONTAINER, SUBREAPER, needs_container
from tests.support.limits import HANG_SECONDS
from tests.support.server import RunningServer, server_of
from tests.support.talk import script, talk

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

ORPHANS = "for i in 1 2 3; do (setsid sh -c 'sleep 0.2' &); done; echo ok"


def family(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def zombies(server: RunningServer) -> list[psutil.Process]:
    found = []
    for process in family(server):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize(
    "prefix", [pytest.param(CONTAINER, marks=needs_container, id="process-1"), pytest.param(SUBREAPER, id="subreaper")]
)
async def test_what_tools_leave_behind_is_reaped_and_the_agents_own_end_is_known(
    tmp_path: Path, prefix: Sequence[str]
) -> None:
    async with server_of(prefix, (), tmp_path, "--sandbox", "none") as server, talk(server) as client:
        for number in range(2):
            session = str(number)
            await client.open(session_id=session, allowed_tools=["Bash"])
            turn = await client.turn(session, script({"tool": {"name": "Bash", "input": {"command": ORPHANS}}}))
            assert turn[-1]["stop_reason"] == "end_turn"
            if number:  # the server's own child: its status reaches the server, and nobody else
                server.kill_agents()
                await client.until(session, "notice", name="agent_exited")
            await client.http.delete(f"/sessions/{session}")
        end = time.monotonic() + HANG_SECONDS
        while [each for each in family(server) if "sleep" in each.name()] or zombies(server):
            assert time.monotonic() < end, family(server)
            await anyio.sleep(0.05)
        first = family(server)[0] if prefix is CONTAINER else psutil.Process(server.process.pid)
        first.send_signal(signal.SIGTERM)
        with anyio.fail_after(HANG_SECONDS):
            assert await server.process.wait() == 0
    assert "SIGTERM: draining" in (tmp_path / "server.log").read_text()
    assert "stopping at once" not in (tmp_path / "server.log").read_text()
