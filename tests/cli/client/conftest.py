"""One real server for the tests of a file, whose sessions are echoes unless they ask for the real CLI.

A client shows what the server sends it, whoever made it: an agent for each test would take most of the time.
"""

from collections.abc import AsyncIterator

import pytest

from tests.support.server import RunningServer, running_server


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    # Some tests leave a turn running: it must not hold up the stop.
    settings = {"PORTICO_DRIVER": "echo,claude-code", "PORTICO_MAX_SESSIONS": "100", "PORTICO_DRAIN_TIMEOUT": "0.5"}
    async with running_server(tmp_path_factory.mktemp("server"), **settings) as server:
        yield server


@pytest.fixture(scope="module")
async def real(server: RunningServer) -> str:
    """A session of the real CLI, for the tests that need one."""
    async with server.http() as http:
        made = await http.post("/sessions", json={"session_id": "real", "driver": "claude-code"})
        return str(made.raise_for_status().json()["session_id"])
